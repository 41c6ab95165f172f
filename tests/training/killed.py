"""Started by test_checkpoint.py: train in a child, kill it at random moments, let the next child go on.

A child is forked from this process, so that one import of torch serves them all.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from holdfast.parts.errors import ModelFileError
from holdfast.training import checkpoint
from holdfast.training.run import Run
from tests.training.toys import Speller

torch.set_num_threads(1)  # nothing of a thread team is inherited by a fork
EXAMPLES = Speller().synthesize(5, np.random.default_rng(0))


def new_run() -> Run:
    return Run(Speller(), EXAMPLES[1:], EXAMPLES[:1], replace(Speller.recipe, steps=150))


def child(path: Path) -> None:
    run = new_run()
    if path.exists():
        checkpoint.resume(run, path)
    for _ in run:
        checkpoint.save(run, path)


def main(path: Path, kills: int) -> None:
    dice, unreadable, step, killed = random.Random(0), 0, 0, 0
    while killed < kills:
        number = os.fork()
        if number == 0:
            child(path)
            os._exit(0)
        time.sleep(dice.uniform(0.005, 0.12))
        os.kill(number, signal.SIGKILL)
        _, status = os.waitpid(number, 0)
        killed += os.WIFSIGNALED(status)
        if not path.exists():
            continue
        try:
            run = new_run()
            checkpoint.resume(run, path)
        except ModelFileError as error:
            sys.stderr.write(f"{error}\n")
            unreadable += 1
            continue
        assert run.step >= step, "a checkpoint went back in time"
        step = run.step
        if run.finished:
            path.unlink()
            step = 0
    sys.stdout.write(f"{killed} kills, {unreadable} unreadable, at step {step}\n")
    child(path)
    last, straight = new_run(), new_run()
    checkpoint.resume(last, path)
    for _ in straight:
        pass
    if all(torch.equal(last.best[name], tensor) for name, tensor in straight.best.items()):
        sys.stdout.write("same bits\n")


main(Path(sys.argv[1]), int(sys.argv[2]))
