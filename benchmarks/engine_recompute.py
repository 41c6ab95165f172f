"""lstm_recomputed against lstm: 100,000 steps of one row, forward and backward, in time and in memory.

    python benchmarks/engine_recompute.py [--threads 1 2] [--quick]

Times are interleaved as everywhere; the peak of memory is each side's alone, in a process of its own, over what stood
before the call.
"""

import json
import subprocess
import sys

import torch

from holdfast.engine import Weights, lstm
from holdfast.engine.recompute import lstm_recomputed
from measure import RESULTS, options, report, row

STEPS, UNITS, CHUNK = 100_000, 64, 1000


class Long:
    """One layer and one long row."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        shapes = ((4 * UNITS, 8), (4 * UNITS, UNITS), (4 * UNITS,))
        self.weights = Weights(*(torch.randn(s, generator=rng).mul_(0.1).requires_grad_() for s in shapes))
        self.x = torch.randn(STEPS, 1, 8, generator=rng)

    def recomputed(self) -> None:
        lstm_recomputed(self.x, self.weights, chunk=CHUNK)[0].sum().backward()

    def plain(self) -> None:
        lstm(self.x, self.weights)[0].sum().backward()


PEAK = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import engine_recompute
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
long = engine_recompute.Long()
torch.randn(64, 64) @ torch.randn(64, 64)  # what the libraries want for themselves
before = peak()
getattr(long, sys.argv[1])()
print((peak() - before) / 1024)
"""


def peak(side: str) -> float:
    """Megabytes above what stood before the call."""
    command = [sys.executable, "-c", PEAK, side]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parent)
    return float(done.stdout)


def main() -> None:
    given = options(__doc__ or "")
    memory = peak("recomputed"), peak("plain")
    rows = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        long = Long()
        flops = 3 * 8.0 * STEPS * UNITS * (UNITS + 8)
        case = f"{STEPS:,} steps, {UNITS} units"
        rows.append(row(case, threads, flops, long.recomputed, long.plain, given.seconds))
    report("engine_recompute", "the plain call", given, rows)
    print(f"peak {memory[0]:.0f} MB, plain {memory[1]:.0f} MB")
    if given.write:
        path = RESULTS / "engine_recompute.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "peak_megabytes": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
