"""How the engine's benchmarks measure, so that nobody has to believe a number.

Ours and the rival's runs alternate, so that whatever else the machine does hits both; a figure is the median, its
spread the interquartile range, a ratio the rival's median over ours; a disturbed comparison is repeated. The roof is
measured in the same run: what multiply-adds in registers reach, and what torch.mm reaches. Results go to
results/NAME.json with the machine and the commit.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from holdfast.engine import native

CALM = 0.15  # interquartile range over median
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """What the command line of every benchmark takes."""

    threads: tuple[int, ...]
    seconds: float  # how long one comparison lasts, both sides together
    write: bool


@dataclass(frozen=True)
class Shape:
    """One LSTM layer and its input."""

    batch: int
    time: int
    features: int
    hidden: int

    def __str__(self) -> str:
        return f"B{self.batch} T{self.time} I{self.features} H{self.hidden}"

    def flops(self, steps: int | None = None) -> float:
        """Floating-point operations of the forward pass's products; the backward pass has twice as many."""
        steps = self.batch * self.time if steps is None else steps
        return 8.0 * steps * self.hidden * (self.features + self.hidden)


# Small, narrow input, middle, language model, large, one long sequence.
SHAPES = (
    Shape(32, 100, 32, 64),
    Shape(64, 128, 9, 128),
    Shape(64, 96, 64, 256),
    Shape(20, 35, 650, 650),
    Shape(32, 200, 256, 512),
    Shape(1, 1000, 128, 256),
)


@dataclass(frozen=True)
class Timing:
    """One side's runs, in milliseconds."""

    median_ms: float
    iqr_ms: float
    runs: int

    @property
    def spread(self) -> float:
        return self.iqr_ms / self.median_ms


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    threads: int
    ours: Timing
    rival: Timing
    ratio: float  # rival's median / ours: above 1 we are faster
    gflops: float  # ours


def options(description: str) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="a few runs each, nothing written")
    given = parser.parse_args()
    return Options(tuple(given.threads), 0.3 if given.quick else 4.0, not given.quick)


def timing(seconds: list[float]) -> Timing:
    if len(seconds) < 2:
        return Timing(seconds[0] * 1e3, 0.0, len(seconds))
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(middle * 1e3, (high - low) * 1e3, len(seconds))


def duration(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], object], rival: Callable[[], object], seconds: float, pause: float = 0.0
) -> tuple[Timing, Timing]:
    """Alternate the two for about so long, at least five runs each after two for warming up.

    `pause`: seconds before each run, for threads of the other side that go on spinning for a while. After it comes a
    run that is not measured, since one's own threads have gone to sleep meanwhile.
    """
    for _ in range(2):
        ours()
        rival()
    pair = (2 if pause else 1) * (duration(ours) + duration(rival)) + 2 * pause
    runs = max(5, min(400, int(seconds / pair)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for work, found in zip((ours, rival), times, strict=True):
            if pause:
                time.sleep(pause)
                work()
            found.append(duration(work))
    return timing(times[0]), timing(times[1])


def row(
    case: str,
    threads: int,
    flops: float,
    ours: Callable[[], object],
    rival: Callable[[], object],
    seconds: float,
    pause: float = 0.0,
) -> Row:
    """Compare; where something else took the machine away meanwhile, again, up to three times, and keep the calmest.

    What counts as calm is the spread of both sides, never the ratio.
    """
    tries: list[tuple[Timing, Timing]] = []
    while len(tries) < 3 and not (tries and max(t.spread for t in tries[-1]) < CALM):
        tries.append(compare(ours, rival, seconds, pause))
    mine, theirs = min(tries, key=lambda pair: pair[0].spread + pair[1].spread)
    return Row(case, threads, mine, theirs, theirs.median_ms / mine.median_ms, flops / mine.median_ms / 1e6)


def roof(threads: int) -> dict[str, float]:
    """Billions of floating-point operations per second that this machine reaches at best, on so many threads."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    mm = min(duration(lambda: a @ b) for _ in range(20))
    return {
        "threads": threads,
        "multiply_adds_in_registers": native.peak_flops(threads) / 1e9,
        "torch_mm_1024": 2 * 1024**3 / mm / 1e9,
    }


def commit() -> str:
    """The commit measured, marked where the tree differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "../kernels") else "")


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    return {
        "cpu": named.get("model name", platform.processor()),
        "family_model": f"{named.get('cpu family', '?')}/{named.get('model', '?')}",
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "instruction_set": native.isa(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def disturbed(r: Row) -> str:
    return "  disturbed" if max(r.ours.spread, r.rival.spread) >= CALM else ""


def mean(rows: Iterable[Row]) -> float:
    """Geometric mean of the ratios."""
    logs = [math.log(row.ratio) for row in rows]
    return math.exp(sum(logs) / len(logs))


def report(name: str, rival: str, given: Options, rows: list[Row]) -> None:
    """Print the table and write results/NAME.json."""
    print(f"\n{name}: holdfast.LSTM against {rival}, {native.isa()}")
    print(f"{'case':34} threads   ours ms (iqr)    rival ms (iqr)   ratio  GFLOP/s")
    for r in rows:
        ours, theirs = (f"{t.median_ms:8.3f} ({t.iqr_ms:6.3f})" for t in (r.ours, r.rival))
        print(f"{r.case:34} {r.threads:7d} {ours} {theirs} {r.ratio:6.2f} {r.gflops:8.0f}{disturbed(r)}")
    means = {str(n): mean(r for r in rows if r.threads == n) for n in given.threads}
    roofs = [roof(n) for n in given.threads]
    for n, r in zip(given.threads, roofs, strict=True):
        peak, mm = r["multiply_adds_in_registers"], r["torch_mm_1024"]
        print(
            f"{n} threads: geometric mean {means[str(n)]:.2f}; roof {peak:.0f} GFLOP/s in registers, torch.mm {mm:.0f}"
        )
    if given.write:
        RESULTS.mkdir(exist_ok=True)
        found = {
            "benchmark": name,
            "rival": rival,
            "machine": machine(),
            "roof_gflops": roofs,
            "geometric_mean_ratio": means,
            "rows": [asdict(r) for r in rows],
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
