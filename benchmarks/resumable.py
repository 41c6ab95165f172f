"""Training that a benchmark can be stopped in and go on with."""

import math
import time
from pathlib import Path

from holdfast.training import checkpoint
from holdfast.training.run import Report, Run

SAVED_EVERY = 120  # seconds


def train(run: Run, saved: Path | None, minutes: float = math.inf) -> bool:
    """Train from the checkpoint on, with a new one and a line of print every two minutes, at every look at validation,
    when time is up and at the end; whether it is finished.

    None for ``saved``: nothing is kept.
    """
    if saved is not None and saved.exists():
        checkpoint.resume(run, saved)
        print(f"  going on from step {run.step}", flush=True)
    started = kept = time.monotonic()
    for report in run:
        now = time.monotonic()
        late = now - started > 60 * minutes
        if report.valid is not None or late or run.finished or now - kept > SAVED_EVERY:
            print(said(run, report), flush=True)
            if saved is not None:
                checkpoint.save(run, saved)
            kept = time.monotonic()
        if late:
            break
    return run.finished


def said(run: Run, report: Report) -> str:
    """A line of print."""
    parts = "".join(f", {name} {value:.3f}" for name, value in report.parts.items())
    valid = "" if report.valid is None else f", validation {report.valid:.4f}"
    return f"  step {report.step} of {run.recipe.steps}: loss {report.loss:.4f}{parts}{valid}, {report.seconds:.0f} s"
