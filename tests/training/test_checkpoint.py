"""A run on disk: resumes to the same bits, survives kill -9 at any moment, and refuses what is not its own."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.engine import durable
from holdfast.parts.errors import ModelFileError, ResourceError
from holdfast.training import checkpoint, model_file
from holdfast.training.run import Run

from .toys import Speller

EXAMPLES = Speller().synthesize(5, np.random.default_rng(0))


def new_run(hidden: int = 7, average: float = 0.9, count: int = 3) -> Run:
    app = Speller(hidden=hidden, count=count)
    return Run(app, EXAMPLES[1:], EXAMPLES[:1], replace(Speller.recipe, average=average))


def weights(run: Run) -> list[torch.Tensor]:
    return [*run.net.state_dict().values(), *(run.best[name] for name in sorted(run.best))]


@pytest.mark.parametrize("stop", [1, 13, 31])  # 13: in the middle of an epoch, between two looks at validation
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resumes_bit_for_bit(tmp_path: Path, stop: int, average: float) -> None:
    straight = new_run(average=average)
    losses = [report.loss for report in straight]
    broken = new_run(average=average)
    for _ in range(stop):
        broken.advance()
    checkpoint.save(broken, tmp_path / "a.run")
    resumed = new_run(average=average)
    checkpoint.resume(resumed, tmp_path / "a.run")
    assert [report.loss for report in resumed] == losses[stop:]
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(straight), strict=True))
    for name in ("best_loss", "best_step", "stale", "epoch", "taken"):
        assert getattr(resumed, name) == getattr(straight, name)


def test_survives_kill_9_twenty_times(tmp_path: Path) -> None:
    """A child trains and saves after every step; it is killed 20 times, at random moments, and always goes on."""
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, script, tmp_path / "k.run", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "20 kills, 0 unreadable" in done.stdout and "same bits" in done.stdout


def test_refuses_a_run_of_other_settings_data_or_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    checkpoint.save(new_run(), path)
    with pytest.raises(ModelFileError, match=r'other settings: \{"hidden": 7\}, now \{"hidden": 8\}'):
        checkpoint.resume(new_run(hidden=8), path)
    checkpoint.resume(new_run(count=4), path)  # what changes answers alone changes no training
    with pytest.raises(ModelFileError, match="other recipe"):
        checkpoint.resume(new_run(average=0.5), path)
    with pytest.raises(ModelFileError, match="other data"):
        checkpoint.resume(Run(Speller(), EXAMPLES[2:], EXAMPLES[:1]), path)
    with pytest.raises(ModelFileError, match="not a model"):
        model_file.read(path, "model")


def test_a_run_from_before_a_setting_was_there_goes_on(tmp_path: Path) -> None:
    """What the file does not name was what the default is; a run that wants something else is still refused."""
    path = tmp_path / "a.run"
    checkpoint.save(new_run(), path)
    for missing, goes_on in (("patience", True), ("average", False)):
        contents = model_file.read(path, "run")
        recipe = {name: value for name, value in contents.header["recipe"].items() if name != missing}
        model_file.write(tmp_path / "b.run", "run", {**contents.header, "recipe": recipe}, dict(contents.tensors))
        if goes_on:
            checkpoint.resume(new_run(), tmp_path / "b.run")
        else:
            with pytest.raises(ModelFileError, match="other recipe"):
                checkpoint.resume(new_run(), tmp_path / "b.run")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.run"
    checkpoint.save(new_run(), path)
    before = path.read_bytes()
    for name in ("fsync", "open"):
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(durable.os, name, refuse)
            with pytest.raises(ResourceError, match="No space left"):
                checkpoint.save(new_run(average=0.0), path)
        assert name == "open" or path.read_bytes() == before  # the folder is opened after the rename
        assert [file.name for file in tmp_path.iterdir()] == ["a.run"]
