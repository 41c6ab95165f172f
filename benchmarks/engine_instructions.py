"""How many instructions the kernels take, by valgrind's callgrind: a count that no busy machine disturbs.

    python benchmarks/engine_instructions.py [--check]

kernels/count.cc calls one entry of the library once on made-up numbers; only what happens inside the entry is counted.
valgrind knows no AVX-512, so the counts are of AVX2 and of the generic build, which are compiled from the same source.
They depend on the compiler: results/engine_instructions.json names it. --check compares with the record instead of
writing it, and exits with 1 where a count has grown by more than 2 %; tests/engine/test_instructions.py does the same.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine import library
from measure import RESULTS, commit

KERNELS = Path(__file__).parent.parent / "kernels"
RECORD = RESULTS / "engine_instructions.json"
MOST_GROWTH = 0.02


@dataclass(frozen=True)
class Case:
    """One call; of softmax `units` is the vocabulary and steps * rows are the tokens."""

    work: str
    entry: str  # where counting begins and ends
    steps: int
    rows: int
    features: int
    units: int

    @property
    def name(self) -> str:
        return f"{self.work} T{self.steps} B{self.rows} I{self.features} H{self.units}"


CASES = (
    Case("forward", "holdfast_lstm_forward", 20, 12, 32, 64),
    Case("backward", "holdfast_lstm_backward", 20, 12, 32, 64),
    Case("inference", "holdfast_lstm_forward", 20, 1, 32, 64),
    Case("stream", "holdfast_streams_step", 1, 1, 64, 128),
    Case("stream", "holdfast_streams_step", 1, 32, 64, 128),
    Case("stream-int8", "holdfast_streams_step", 1, 1, 64, 128),
    Case("softmax", "holdfast_softmax_cross_entropy", 8, 8, 64, 1000),
)
ISAS = ("generic", "avx2")


def compiler() -> str:
    """The first line of the compiler's version; empty where there is none."""
    name = shutil.which("c++")
    if name is None:
        return ""
    done = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def why_not() -> str:
    """Why there is nothing to count with, in words; empty where there is."""
    if not library.available():
        return library.why_not()
    missing = [name for name in ("valgrind", "c++") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def counts(cases: tuple[Case, ...] = CASES, isas: tuple[str, ...] = ISAS) -> Iterator[tuple[str, int]]:
    """(instruction set and case, instructions), one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        program, found = Path(folder) / "count", Path(folder) / "callgrind.out"
        built = Path(library.path())
        compile_it = ["c++", "-std=c++17", "-O1", f"-I{KERNELS}", str(KERNELS / "count.cc"), str(built)]
        subprocess.run([*compile_it, f"-Wl,-rpath,{built.parent}", "-o", str(program)], check=True)
        for isa in isas:
            for case in cases:
                arguments = [case.work, *map(str, (case.steps, case.rows, case.features, case.units))]
                callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={found}", "--collect-atstart=no"]
                done = subprocess.run(
                    [*callgrind, f"--toggle-collect={case.entry}", str(program), *arguments],
                    env={**os.environ, "HOLDFAST_ISA": isa},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                total = re.search(r"^(?:summary|totals): (\d+)", found.read_text(), re.M) if found.exists() else None
                if done.returncode or total is None or not int(total[1]):
                    raise RuntimeError(f"{' '.join(arguments)} was not counted:\n{done.stderr}")
                yield f"{isa} {case.name}", int(total[1])


def grown(record: dict[str, int], found: dict[str, int]) -> dict[str, float]:
    """By how much counts have grown, where that is too much."""
    growth = {name: found[name] / before - 1 for name, before in record.items() if name in found}
    return {name: by for name, by in growth.items() if by > MOST_GROWTH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the record, write nothing")
    given = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    record: dict[str, int] = json.loads(RECORD.read_text())["instructions"] if RECORD.exists() else {}
    found: dict[str, int] = {}
    for name, count in counts():
        found[name] = count
        print(f"{name:42} {count:12,}" + (f"  {count / record[name] - 1:+.2%}" if name in record else ""))
    if given.check:
        too_much = grown(record, found)
        sys.exit("".join(f"{name} has grown by {by:.1%}\n" for name, by in too_much.items()) or 0)
    header = {"benchmark": "engine_instructions", "compiler": compiler(), "commit": commit()}
    RECORD.write_text(json.dumps({**header, "instructions": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
