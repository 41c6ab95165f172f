"""Training that a benchmark can be stopped in and go on with."""

import time
from pathlib import Path

from holdfast.training import checkpoint
from holdfast.training.run import Run


def train(run: Run, saved: Path | None, minutes: float) -> bool:
    """Train from the checkpoint on, with one at every look, when time is up and at the end; whether it is finished.

    None for ``saved``: nothing is kept.
    """
    if saved is not None and saved.exists():
        checkpoint.resume(run, saved)
        print(f"  going on from step {run.step}", flush=True)
    started = time.monotonic()
    for report in run:
        late = time.monotonic() - started > 60 * minutes
        if report.valid is not None:
            parts = "".join(f", {name} {value:.3f}" for name, value in report.parts.items())
            print(
                f"  step {report.step} of {run.recipe.steps}: loss {report.loss:.4f}{parts}, "
                f"validation {report.valid:.4f}, {report.seconds:.0f} s",
                flush=True,
            )
        if saved is not None and (report.valid is not None or late or run.finished):
            checkpoint.save(run, saved)
        if late:
            break
    return run.finished
