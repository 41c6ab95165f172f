"""What is promised about every application: adding one adds a line to sources.py, not a test."""

import inspect
import io
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.apps import APPLICATIONS, load
from holdfast.parts.errors import DataError, SettingError
from holdfast.training import checkpoint
from holdfast.training.application import Application, Recipe, collect
from holdfast.training.model import Model
from holdfast.training.run import Run, start

from .sources import CONTRACTS, Contract

AnyModel = Model[Any, Any, Any, Any, Any, Any]
_trained: dict[str, AnyModel] = {}


@pytest.fixture(params=CONTRACTS, ids=lambda contract: contract.task)
def contract(request: pytest.FixtureRequest) -> Contract:
    return request.param


@pytest.fixture
def model(contract: Contract) -> AnyModel:
    """One trained model per application: what is asked of it changes nothing in it."""
    if contract.task not in _trained:
        _trained[contract.task] = contract.small().fit(contract.made_up(), recipe=contract.recipe)
    return _trained[contract.task]


@pytest.fixture
def file_model(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> AnyModel:
    """One model per application that was trained on a file."""
    name = f"{contract.task} from a file"
    if name not in _trained:
        path = contract.write(tmp_path_factory.mktemp("data"), 0)
        _trained[name] = contract.small().fit(path, recipe=contract.recipe)
    return _trained[name]


def new_run(contract: Contract, **changes: Any) -> Run:
    return start(contract.small(), contract.made_up(), None, replace(contract.recipe, **changes))


def exhausted(run: Run) -> Run:
    for _ in run:
        pass
    return run


def same(a: Run, b: Run) -> bool:
    one, other = a.net.state_dict(), b.net.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def assert_rows_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    assert len(found) == len(wanted) > 0
    for row, want in zip(found, wanted, strict=True):
        assert list(row) == list(want)
        for name, value in want.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
            else:
                assert row[name] == value, name


def test_every_application_has_a_contract() -> None:
    assert [contract.task for contract in CONTRACTS] == list(APPLICATIONS)
    for contract in CONTRACTS:
        kind = contract.kind
        assert kind.task == contract.task and kind.__name__ == APPLICATIONS[contract.task][1]
        assert kind.summary == APPLICATIONS[contract.task][2]
        assert issubclass(kind, Application) and not kind.__subclasses__()


@pytest.mark.tiny
def test_learns(contract: Contract) -> None:
    run = new_run(contract, average=0.0)
    before = run.validation_loss()
    exhausted(run)
    assert run.best_loss < 0.9 * before


def test_same_seed_same_weights_other_seed_other_weights(contract: Contract) -> None:
    first = exhausted(new_run(contract, steps=4))
    assert same(first, exhausted(new_run(contract, steps=4)))
    assert not same(first, exhausted(new_run(contract, steps=4, seed=1)))


def test_resumes_bit_for_bit(contract: Contract, tmp_path: Path) -> None:
    straight = exhausted(new_run(contract, steps=7, validate_every=3))
    broken = new_run(contract, steps=7, validate_every=3)
    for _ in range(4):
        broken.advance()
    checkpoint.save(broken, tmp_path / "a.run")
    resumed = new_run(contract, steps=7, validate_every=3)
    checkpoint.resume(resumed, tmp_path / "a.run")
    assert same(exhausted(resumed), straight) and resumed.best_loss == straight.best_loss


def test_clips_before_the_step(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(contract, clip=1e-3)
    step, norms = run.optimiser.step, list[float]()

    def watched() -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in run.net.parameters() if p.grad is not None]).norm()))
        step()

    monkeypatch.setattr(run.optimiser, "step", watched)
    assert run.advance().norm > 1e-3 and norms == [pytest.approx(1e-3, rel=1e-2)]


def test_the_file_keeps_the_answers(contract: Contract, model: AnyModel, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    again, questions = load(path), contract.made_up(seed=1)
    assert again.rows(again.predict(questions)) == model.rows(model.predict(questions))
    assert again.application == model.application and again.card == model.card
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


def test_every_tensor_of_the_network_is_in_the_file(model: AnyModel) -> None:
    stored = set(model.net.state_dict())
    held = {name for name, _ in [*model.net.named_parameters(), *model.net.named_buffers()]}
    assert held <= stored, f"not persistent: {held - stored}"


@pytest.mark.tiny
def test_alone_is_in_a_batch_and_padding_never_matters(contract: Contract, model: AnyModel) -> None:
    questions = contract.made_up(seed=1)
    together = model.predict(questions)
    for question, output in zip(questions, together, strict=True):
        assert_rows_equal(model.rows(model.predict([question])), model.rows([output]))


def test_predicting_changes_nothing(contract: Contract, model: AnyModel) -> None:
    questions = contract.made_up(seed=1)
    first = model.rows(model.predict(questions))
    model.predict(contract.made_up(seed=2))
    model.evaluate(questions)
    assert model.rows(model.predict(questions)) == first


def test_scores_stand_beside_baselines(contract: Contract, model: AnyModel) -> None:
    scores = model.evaluate(contract.made_up(seed=1))
    assert next(iter(scores)) == "holdfast" and len(scores) >= 2
    assert all(math.isfinite(value) for row in scores.values() for value in row.values())
    assert any(set(row) & set(scores["holdfast"]) for who, row in scores.items() if who != "holdfast")


def test_stream_is_whole(contract: Contract, file_model: AnyModel, tmp_path: Path) -> None:
    model = file_model
    path = contract.write(tmp_path, 3)
    whole = model.rows(model.predict(path))
    pieces = list(model.application.pieces(io.BytesIO(path.read_bytes())))
    assert_rows_equal(model.rows(list(collect(model.stream(), pieces))), whole)
    moved = model.stream()
    outputs: list[Any] = []
    for n, piece in enumerate(pieces):  # every so often the stream moves to another process
        outputs += moved.push(piece)
        if n % 97 == 13:
            state = moved.state()
            moved = model.stream()
            moved.restore(state)
    assert_rows_equal(model.rows([*outputs, *moved.flush()]), whole)


def test_a_state_of_another_kind_is_refused(model: AnyModel) -> None:
    from holdfast.parts.packing import pack

    for state in (b"", b"nonsense" * 9, pack("another", {}, {"a": np.ones(2)})):
        with pytest.raises(DataError):
            model.stream().restore(state)


def test_names_a_mistyped_setting(contract: Contract) -> None:
    with pytest.raises(SettingError, match="did you mean 'hidden'"):
        contract.kind(hiden=3)
    with pytest.raises(SettingError, match="hidden"):
        contract.kind(hidden="many")
    with pytest.raises(SettingError, match="hidden"):
        contract.kind(hidden=0)


def test_flags_do_not_collide(contract: Contract) -> None:
    from holdfast.interfaces.cli.train import command

    names = list(inspect.signature(command(contract.task)).parameters)
    assert len(set(names)) == len(names)
    flags = {field.name for field in fields(contract.kind)}
    assert not flags & {field.name for field in fields(Recipe)}
    taken = {
        "time",
        "out",
        "valid",
        "resume",
        "start",
        "force",
        "json",
        "verbose",
        "plot",
        "format",
        "strict",
        "require",
        "config",
    }
    assert not flags & taken, "these words are flags of the verbs"
    assert all(field.metadata.get("help") for field in fields(contract.kind)), "a setting without a help text"


def test_reading_what_is_not_there_or_not_data_is_a_data_error(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "header.csv").write_text("a,b,c\n")
    for name in ("absent.csv", "empty.csv", "noise.csv", *(() if contract.reads_text else ("header.csv",))):
        with pytest.raises(DataError):
            contract.small().read(tmp_path / name)


def test_draws_a_picture(contract: Contract, model: AnyModel, tmp_path: Path) -> None:
    questions = contract.made_up(seed=1)
    model.application.draw(questions, model.predict(questions)).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
