"""The six experiments of the paper that gave the LSTM its name, on this engine, beside the paper's own numbers.

    python benchmarks/long_memory.py [NAME ...] [--trials 10] [--rival-trials 3] [--again] [--quick] [--plot]

Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8):1735-1780, 1997. NAME is the name of an
experiment below or how some of them begin: 4 is 4-100, 4-500 and 4-1000; without one all run. results/long_memory.json
is written after every trial, and a trial found there is not run again, unless with --again. --quick: one trial of the
quick ones, under a minute, nothing written. --plot: the gradient through time, docs/guide/images/long_memory.svg.

Reproduced: the tasks, the definitions of success, the stopping criteria, the test sets (long_memory_tasks.py and
long_memory_reber.py). Different: the cell is torch.nn.LSTM's, with the forget gate of Gers, Schmidhuber & Cummins 2000;
16 units for every task, where the paper has 1 to 8 cells; the whole gradient, by back-propagation through time, where
the paper cuts it off at the gates; Adam on batches of 16, where the paper changes the weights after each sequence;
cross-entropy where the paper has squared error. Every sequence presented is counted. Training stops the moment the
criterion is met, and the network that is there then is tested on 2,560 new sequences.

The rival is torch.nn.RNN (tanh) of as many units, by the same recipe, on as many sequences as the slowest of our
successes needed.

One recipe for all experiments (long_memory_training.py), chosen on seeds from 1000 on; the table has seeds from 0 on.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import holdfast
from long_memory_reber import EmbeddedReber
from long_memory_tasks import LongLag, Marked, NoiseFree, Task, TemporalOrder, TwoSequence
from long_memory_training import RECIPE, TEST, Layer, Memory, Outcome, trial
from measure import machine

RESULTS = Path(__file__).parent / "results" / "long_memory.json"
OURS, RIVAL = "holdfast.LSTM", "torch.nn.RNN"
LAYERS: dict[str, Layer] = {OURS: holdfast.LSTM, RIVAL: nn.RNN}
QUICK = ("1", "2c-100-100", "2c-1000-1000", "3a-100-3", "4-100", "6a")


@dataclass(frozen=True)
class Experiment:
    """One row of the table: a task, and what the paper reports for it."""

    name: str
    words: str
    task: Task
    lag: int  # least number of steps between the last relevant input and the target
    most: int  # training sequences after which a trial has failed
    paper_after: int  # training sequences until success, mean of the paper's trials
    paper_weights: int
    paper_wrong: float | None = None  # of 2,560 test sequences; None where the paper has no such test


def long_lag(q: int, p: int, weights: int, after: int) -> Experiment:
    return Experiment(f"2c-{q}-{p}", f"{p} distractors", LongLag(q, p), q + 1, 30_000, after, weights)


EXPERIMENTS = (
    Experiment("1", "embedded Reber grammar", EmbeddedReber(), 9, 100_000, 8_440, 276),
    Experiment("2a", "no noise, two sequences", NoiseFree(), 100, 200_000, 5_040, 10_504),
    Experiment("2b", "no noise, no regularity", NoiseFree(random=True), 100, 300_000, 5_680, 10_504),
    long_lag(50, 50, 364, 30_000),
    long_lag(100, 100, 664, 31_000),
    long_lag(500, 500, 3_064, 38_000),
    long_lag(1000, 1000, 6_064, 49_000),
    long_lag(1000, 50, 364, 203_000),
    Experiment("3a-100-3", "two sequences", TwoSequence(100, 3), 97, 60_000, 39_850, 102, 0.5),
    Experiment("3a-100-1", "two sequences", TwoSequence(100, 1), 99, 60_000, 64_330, 102, 0.3),
    Experiment("3a-1000-3", "two sequences", TwoSequence(1000, 3), 997, 200_000, 452_460, 102, 0.2),
    Experiment("3b-100-3", "noisy signal", TwoSequence(100, 3, noisy_signal=True), 97, 100_000, 43_250, 102, 21.2),
    Experiment("3b-100-1", "noisy signal", TwoSequence(100, 1, noisy_signal=True), 99, 100_000, 78_430, 102, 38.4),
    Experiment("3b-1000-1", "noisy signal", TwoSequence(1000, 1, noisy_signal=True), 999, 200_000, 485_080, 102, 30.9),
    Experiment("3c-100-3", "noisy targets", TwoSequence(100, 3, noisy_target=True), 97, 100_000, 269_650, 102, 14.3),
    Experiment("3c-100-1", "noisy targets", TwoSequence(100, 1, noisy_target=True), 99, 100_000, 565_640, 102, 11.3),
    Experiment("4-100", "adding", Marked(100), 50, 100_000, 74_000, 93, 1),
    Experiment("4-500", "adding", Marked(500), 250, 150_000, 209_000, 93, 0),
    Experiment("4-1000", "adding", Marked(1000), 500, 200_000, 853_000, 93, 1),
    Experiment("5-140", "multiplication", Marked(product=True, fewer_than=140), 50, 200_000, 482_000, 93, 139),
    Experiment("5-13", "multiplication", Marked(product=True, fewer_than=13), 50, 300_000, 1_273_000, 93, 14),
    Experiment("6a", "order of two", TemporalOrder(2), 40, 100_000, 31_390, 156, 1),
    Experiment("6b", "order of three", TemporalOrder(3), 24, 100_000, 571_100, 308, 2),
)


def chosen(names: list[str]) -> list[Experiment]:
    """The experiments whose names begin so; 2 is 2a, 2b and all of 2c, 2c-100 is not 2c-1000-50."""

    def fits(full: str, name: str) -> bool:
        return full.startswith(name) and not full[len(name) : len(name) + 1].isdigit()

    found = [e for e in EXPERIMENTS if not names or any(fits(e.name, name) for name in names)]
    if not found:
        sys.exit(f"no experiment is called {' or '.join(names)}; there are {', '.join(e.name for e in EXPERIMENTS)}")
    return found


class Record:
    """The results so far, on disk after every trial."""

    def __init__(self) -> None:
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        same = found.get("recipe") == dataclasses.asdict(RECIPE)  # another recipe's trials are no part of this table
        self.rows: dict[str, Any] = found["rows"] if same else {}

    def missing(self, experiment: Experiment, layer: str, trials: int) -> list[int]:
        """The seeds below this number that have no trial yet."""
        done = {outcome["seed"] for outcome in self.rows.get(experiment.name, {}).get(layer, [])}
        return [seed for seed in range(trials) if seed not in done]

    def most(self, experiment: Experiment, layer: str) -> int:
        """How many sequences a trial may have: the rival as many as the slowest of our successes needed, if any."""
        ours = self.rows.get(experiment.name, {}).get(OURS, [])
        needed = [outcome["sequences"] for outcome in ours if outcome["solved"]]
        return experiment.most if layer == OURS or not needed else max(needed)

    def forget(self, experiment: Experiment) -> None:
        self.rows.pop(experiment.name, None)

    def add(self, experiment: Experiment, layer: str, outcome: Outcome) -> None:
        row = self.rows.setdefault(experiment.name, {})
        outcomes = [*row.get(layer, []), dataclasses.asdict(outcome)]
        row[layer] = sorted(outcomes, key=lambda one: one["seed"])
        row |= {field.name: getattr(experiment, field.name) for field in dataclasses.fields(experiment)}
        row.pop("task")
        row["weights"] = Memory(experiment.task, LAYERS[OURS], RECIPE.hidden).weights()
        self.write()

    def write(self) -> None:
        order = [experiment.name for experiment in EXPERIMENTS]
        rows = dict(sorted(self.rows.items(), key=lambda item: order.index(item[0])))
        found = {"benchmark": "long_memory", "recipe": dataclasses.asdict(RECIPE), "machine": machine(), "rows": rows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def line(experiment: Experiment, layer: str, outcomes: Iterable[dict[str, Any]]) -> str:
    """One row of the printed table."""
    outcomes = list(outcomes)
    solved = [one for one in outcomes if one["solved"]]
    cells = [f"{experiment.name:12} {experiment.lag:5d}  {experiment.paper_after:9,}  {layer:13}"]
    cells.append(f"{len(solved)}/{len(outcomes)}".rjust(6))
    if solved:
        counts = [one["sequences"] for one in solved]
        cells.append(f"{statistics.mean(counts):9,.0f} ({min(counts):,}-{max(counts):,})".ljust(30))
        cells.append(f"{statistics.mean(one['wrong'] for one in solved):6.1f}")
    else:
        cells.append(f"{'-':>9} (of {max(one['sequences'] for one in outcomes):,})".ljust(30) + "     -")
    cells.append(f"{statistics.mean(one['seconds'] for one in outcomes):7.1f} s")
    return " ".join(cells)


TESTED = f"wrong of {TEST:,}"
HEAD = f"{'experiment':12} {'lag':>5}  {'paper':>9}  {'layer':13} solved  sequences {TESTED:>29}   per trial"


def quick() -> None:
    """One trial of the quick ones, ours alone."""
    print(HEAD)
    for experiment in EXPERIMENTS:
        if experiment.name in QUICK:
            outcome = trial(experiment.task, holdfast.LSTM, experiment.most, seed=0)
            print(line(experiment, OURS, [dataclasses.asdict(outcome)]), flush=True)


def record(experiments: list[Experiment], trials: dict[str, int], again: bool) -> None:
    """Run what is not there yet: first all of ours, then the rival's, which take longer."""
    results = Record()
    for experiment in experiments if again else ():
        results.forget(experiment)
    print(HEAD)
    for layer, count in trials.items():
        for experiment in experiments:
            for seed in results.missing(experiment, layer, count):
                outcome = trial(experiment.task, LAYERS[layer], results.most(experiment, layer), seed)
                results.add(experiment, layer, outcome)
            if layer in results.rows.get(experiment.name, {}):
                print(line(experiment, layer, results.rows[experiment.name][layer]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--trials", type=int, default=10, help="seeds 0, 1, ... of the LSTM")
    parser.add_argument("--rival-trials", type=int, default=3, help="and of the rival")
    parser.add_argument("--again", action="store_true", help="forget what is recorded of these experiments")
    parser.add_argument("--quick", action="store_true", help="a taste: nothing is written")
    parser.add_argument("--plot", action="store_true", help="only draw the gradient through time")
    given = parser.parse_args()
    torch.set_num_threads(1)  # small networks: a second thread costs more than it gives
    if given.plot:
        from long_memory_gradient import draw  # matplotlib is needed here alone

        draw()
    elif given.quick:
        quick()
    else:
        trials = {OURS: given.trials, RIVAL: given.rival_trials}
        record(chosen(given.names), trials, given.again)


if __name__ == "__main__":
    main()
