"""The command line as people use it: round trips, exit codes, pipes, signals."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from holdfast.apps import load
from holdfast.interfaces.cli.main import run
from tests.apps.sources import CONTRACTS, Contract

FORECAST = next(contract for contract in CONTRACTS if contract.task == "forecast")
COMMAND = [sys.executable, "-m", "holdfast.interfaces.cli.main"]


def flags(contract: Contract, steps: int = 8) -> list[str]:
    settings = [
        word for name, value in contract.settings.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [*settings, "--steps", str(steps), "--batch", "8", "--validate-every", "4"]


@pytest.fixture(params=CONTRACTS, ids=lambda contract: contract.task)
def contract(request: pytest.FixtureRequest) -> Contract:
    return request.param


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Contract], tuple[Path, Path]]:
    """(model file, data file) of an application, trained once through the command line."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(contract: Contract) -> tuple[Path, Path]:
        if contract.task not in made:
            folder = tmp_path_factory.mktemp(contract.task)
            data, model = contract.write(folder, 0), folder / "m.safetensors"
            assert run(["train", contract.task, str(data), "-o", str(model), *flags(contract)]) == 0
            made[contract.task] = (model, data)
        return made[contract.task]

    return get


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
IN_HUGE_PAGES = """
import re
from pathlib import Path
from holdfast.interfaces.cli import main
def run(words):
    import torch
    tensor = torch.ones(20_000_000)
    print(sum(map(int, re.findall("AnonHugePages: *([0-9]+) kB", Path("/proc/self/smaps").read_text()))))
    return 0
main.run = run
main.main()
"""


@pytest.mark.skipif(not HUGE.is_file() or "[never]" in HUGE.read_text(), reason="this system has no huge pages")
def test_large_tensors_lie_in_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", IN_HUGE_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60_000  # kB, of 80,000


@pytest.mark.tiny
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["doctor", "-h"]]
)
def test_help_answers_without_importing_torch(words: list[str]) -> None:
    code = "import sys; from holdfast.interfaces.cli.main import run; c = run(sys.argv[1:]); assert c == 0, c; "
    code += (
        "assert 'torch' not in sys.modules, 'torch was imported'"
        if words[0] in ("--help", "--version", "train")
        else ""
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_names_every_task_and_its_settings(capsys: pytest.CaptureFixture[str], contract: Contract) -> None:
    assert run(["train", "--help"]) == 0
    assert contract.task in capsys.readouterr().out
    assert run(["train", contract.task, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--hidden" in said and "--learning-rate" in said and "--time" in said


def test_round_trip(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, data = trained(contract)
    capsys.readouterr()
    assert run(["run", str(model), str(data), "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    wanted = load(model).rows(load(model).predict(data))
    assert pl.read_csv(io.StringIO(printed)).height == len(wanted)
    assert printed.splitlines()[0].split(",") == list(wanted[0])
    assert run(["run", str(model), str(data)]) == 0
    said, prose = capsys.readouterr().out, load(model).application.prose
    assert said == (printed if prose is None else "".join(f"{row[prose.column]}\n" for row in wanted))
    for ending in ("csv", "json", "jsonl", "parquet"):
        assert run(["run", str(model), str(data), "-o", str(tmp_path / f"out.{ending}")]) == 0
    assert pl.read_parquet(tmp_path / "out.parquet").height == len(wanted)
    assert len(json.loads((tmp_path / "out.json").read_text())) == len(wanted)
    assert (
        run(["run", str(model), str(data), "--plot", str(tmp_path / "out.png"), "-o", str(tmp_path / "again.csv")]) == 0
    )
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_eval_and_its_gate(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    capsys.readouterr()
    assert run(["eval", str(model), str(data), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    metric, value = next(iter(scores["holdfast"].items()))
    assert run(["eval", str(model), str(data), "--require", f"{metric}<{value + 1}"]) == 0
    assert "holdfast" in capsys.readouterr().out
    assert run(["eval", str(model), str(data), "--require", f"{metric}>{value + 1}"]) == 7
    assert run(["eval", str(model), str(data), "--require", "nonsense<1"]) == 2


def test_a_stream_through_a_pipe(contract: Contract, trained: Callable[..., tuple[Path, Path]]) -> None:
    model, data = trained(contract)
    whole = subprocess.run([*COMMAND, "run", model, data], capture_output=True, text=True, check=True).stdout
    piped = subprocess.run(
        [*COMMAND, "run", model, "-"], input=data.read_bytes(), capture_output=True, check=True
    ).stdout
    assert piped.decode().splitlines()[0] == whole.splitlines()[0]
    assert len(piped.splitlines()) >= len(whole.splitlines()) > (0 if contract.reads_text else 1)


def test_show(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    capsys.readouterr()
    assert run(["show", str(model)]) == 0
    assert contract.task in capsys.readouterr().out
    assert run(["show", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["task"] == contract.task and facts["card.data"] == data.name


def test_requirements_are_checked_before_the_work_and_capitals_do_not_matter(
    trained: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(FORECAST)
    capsys.readouterr()
    assert run(["eval", str(model), str(data), "--require", "mase < 1000", "--require", "SMAPE<=200"]) == 0
    capsys.readouterr()
    assert run(["eval", str(model), str(data), "--require", "mase"]) == 2
    assert run(["eval", str(model), str(data), "--plot", "out.xyz"]) == 2
    assert run(["run", str(model), "-", "--plot", "out.png"]) == 2
    assert not capsys.readouterr().out, "something was computed first"
    assert run(["eval", str(model), str(data), "--require", "mese<1"]) == 2
    assert "did you mean 'mase'" in capsys.readouterr().err


def test_resume_without_anything_to_go_on_with_keeps_the_model(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    before = model.read_bytes()
    for more in ([], ["--force"]):
        assert run(["train", contract.task, str(data), "-o", str(model), *flags(contract), "--resume", *more]) == 2
    assert "nothing to go on with" in capsys.readouterr().err and model.read_bytes() == before


def test_an_empty_stream_is_an_error(contract: Contract, trained: Callable[..., tuple[Path, Path]]) -> None:
    model, _ = trained(contract)
    for nothing in (b"", b"\xff" if contract.reads_text else b"a,header,only\n"):
        done = subprocess.run([*COMMAND, "run", model, "-"], input=nothing, capture_output=True, check=False)
        assert done.returncode == 3 and b"standard input" in done.stderr, done.stderr


WRONG: list[tuple[list[str], int, str]] = [
    (["trian"], 2, "did you mean 'train'"),
    (["train", "forcast", "x"], 2, "did you mean 'forecast'"),
    (["train", "forecast", "x.csv", "-o", "m", "--hiden", "3"], 2, "--hidden"),
    (["train", "forecast", "x.csv", "-o", "m", "--hidden", "many"], 2, "hidden"),
    (["train", "forecast", "x.csv", "-o", "m", "--hidden", "0"], 2, "at least 1"),
    (["train", "forecast", "x.csv", "-o", "m", "--time", "soon"], 2, "5m"),
    (["train", "forecast", "x.csv", "-o", "m", "--time", "0s"], 2, "at least"),
    (["train", "forecast", "x.csv"], 2, "out"),
    (["train", "forecast", "absent.csv", "-o", "m"], 3, "absent.csv"),
    (["eval", "absent.safetensors", "x.csv"], 4, "absent.safetensors"),
    (["show", "absent.safetensors"], 4, "absent.safetensors"),
    (["doctor", "--slow"], 2, "--slow"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG)
def test_what_is_wrong_is_named_and_has_its_exit_code(
    words: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == code
    out, err = capsys.readouterr()
    assert said in err.replace("\n", " ") and not out
    assert "Traceback" not in err


def test_nothing_is_overwritten_unasked(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    before = model.read_bytes()
    assert run(["train", contract.task, str(data), "-o", str(model), *flags(contract)]) == 2
    assert "--force" in capsys.readouterr().err and model.read_bytes() == before
    (tmp_path / "out.csv").write_text("mine")
    assert run(["run", str(model), str(data), "-o", str(tmp_path / "out.csv")]) == 2
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_going_on_from_a_trained_model(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    new = tmp_path / "new.safetensors"
    recipe = ["--steps", "2", "--batch", "8", "--validate-every", "2", "--learning-rate", "1e-6"]
    assert run(["train", contract.task, str(data), "-o", str(new), "--start", str(model), *recipe]) == 0
    before, after = load(model), load(new)
    assert after.application == before.application
    one, other = (dict(model.net.named_parameters()) for model in (before, after))
    assert all(abs(other[name] - one[name]).max() < 1e-3 for name in one)
    capsys.readouterr()
    other_size = ["--hidden", str(contract.settings["hidden"] + 1)]
    words = ["train", contract.task, str(data), "-o", str(new), "--force", "--start", str(model), *recipe]
    assert run([*words, *other_size]) == 2
    assert "hidden" in capsys.readouterr().err


def test_some_inputs_failed(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    (tmp_path / "bad.csv").write_bytes(b"no\0text" if contract.reads_text else b"nothing,of\nuse,here\n")
    capsys.readouterr()
    assert run(["run", str(model), str(tmp_path / "bad.csv"), str(data), "-f", "csv"]) == 5
    out, err = capsys.readouterr()
    assert "bad.csv" in err and out.startswith("input,") and len(out.splitlines()) > 1
    assert run(["run", str(model), str(tmp_path / "bad.csv")]) == 3


def test_a_damaged_model_file(
    contract: Contract, trained: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained(contract)
    (tmp_path / "half.safetensors").write_bytes(model.read_bytes()[:500])
    assert run(["eval", str(tmp_path / "half.safetensors"), str(data)]) == 4
    assert "half.safetensors" in capsys.readouterr().err


def test_config_is_the_layer_below_flags(tmp_path: Path) -> None:
    contract = FORECAST
    data, model = contract.write(tmp_path, 0), tmp_path / "m.safetensors"
    (tmp_path / "run.toml").write_text("hidden = 5\nsteps = 6\nseed = 3\n")
    words = ["train", contract.task, str(data), "-o", str(model), "--config", str(tmp_path / "run.toml")]
    assert run([*words, "--members", "1", "--horizon", "5", "--context", "24", "--seed", "4"]) == 0
    card, application = load(model).card, load(model).application
    assert application.hidden == 5 and card["steps"] == 6 and card["recipe"]["seed"] == 4
    (tmp_path / "run.toml").write_text("hiden = 5\n")
    assert run([*words, "--force"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_training_with_a_checkpoint_and_resume_goes_on(tmp_path: Path, number: int, code: int) -> None:
    contract = FORECAST
    data, model = contract.write(tmp_path, 0), tmp_path / "m.safetensors"
    settings = [word for name, value in contract.settings.items() for word in (f"--{name}", str(value))]
    words: list[Any] = [
        "train",
        contract.task,
        data,
        "-o",
        model,
        *settings,
        "--batch",
        "8",
        "--checkpoint-every",
        "0.1",
    ]
    process = subprocess.Popen([*COMMAND, *words, "--steps", "100000"], stderr=subprocess.PIPE, text=True)
    saved = tmp_path / "m.safetensors.run"
    deadline = time.monotonic() + 60
    while not saved.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "--resume" in err, err
    assert saved.exists() and not model.exists()
    assert run([*map(str, words), "--steps", "100000", "--time", "1s", "--resume"]) == 4  # another recipe
    assert saved.exists()


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    code = "import sys; sys.modules['polars'] = None\nfrom holdfast.interfaces.cli.main import run\n"
    code += "assert run(['train', 'forecast', 'x.csv', '-o', 'm']) == 2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and 'pip install "holdfast[data]"' in done.stderr, done.stderr


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["self-test"].startswith(("passed", "nothing")) and facts["kernels"]
