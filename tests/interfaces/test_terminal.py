"""A conversation at a terminal: `holdfast run MODEL` and nothing else."""

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from holdfast.apps import application
from holdfast.training.application import Recipe
from tests.apps.sources import CONTRACTS
from tests.interfaces.test_cli import COMMAND

CHAT = next(contract for contract in CONTRACTS if contract.task == "chat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "m.safetensors"
    app = application("chat")(**CHAT.settings)
    app.fit(CHAT.made_up(), recipe=Recipe(steps=4, batch=16, validate_every=4)).save(path)
    return path


def test_what_is_typed_is_answered_behind_a_prompt(model: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "run", str(model)], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        os.close(theirs)
        assert child.stderr is not None and child.stdout is not None
        for line in ("When do you open?\n", "Thank you!\n"):
            assert child.stderr.read(2) == "> "
            os.write(ours, line.encode())
            assert child.stdout.readline().endswith("\n")  # the answer is there before anything else is typed
        os.write(ours, b"\x04")  # end of transmission
        assert child.wait(timeout=60) == 0
        assert child.stdout.read() == "" and child.stderr.read() == "> "
    os.close(ours)


def test_a_pipe_gets_no_prompt(model: Path) -> None:
    started = time.monotonic()
    done = subprocess.run([*COMMAND, "run", str(model)], input=b"Hello\n", capture_output=True, check=True)
    assert done.stderr == b"" and done.stdout.endswith(b"\n") and time.monotonic() - started < 120
