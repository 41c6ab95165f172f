"""For each application, what the contract test needs to know: small settings, and a file of made-up data."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.apps import application
from holdfast.parts.text import made_up_pairs, made_up_talk
from holdfast.parts.text.made_up import story
from holdfast.training.application import Application, Recipe


@dataclass(frozen=True)
class Contract:
    task: str
    settings: dict[str, Any]  # small: the contract is about promises, not scores
    recipe: Recipe
    examples: int
    write: Callable[[Path, int], Path]  # (folder, seed) -> a file that the application reads, with answers
    reads_text: bool = False  # then any text will do

    @property
    def kind(self) -> Any:
        return application(self.task)

    def small(self) -> Application[Any, Any, Any, Any, Any, Any]:
        return self.kind(**self.settings)

    def made_up(self, seed: int = 0) -> list[Any]:
        return self.small().synthesize(self.examples, np.random.default_rng(seed))


def write_series(folder: Path, seed: int) -> Path:
    """Two series of unequal length, monthly, long format."""
    dice = np.random.default_rng(seed)
    path = folder / "series.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["shop", "month", "sold"])
        for name, length in (("north", 84), ("south", 70)):
            for n in range(length):
                value = 50 + n / 3 + 12 * np.sin(n * np.pi / 6) + dice.normal(0, 2)
                table.writerow([name, f"{2010 + n // 12}-{n % 12 + 1:02d}-01", f"{value:.3f}"])
    return path


def write_recording(folder: Path, seed: int) -> Path:
    """Two minutes of an accelerometer at 31 Hz: still, then shaken, in turn."""
    dice = np.random.default_rng(seed)
    path = folder / "recording.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "acc_x", "acc_y", "acc_z", "label"])
        for n in range(31 * 120):
            label = "still" if n // 310 % 2 == 0 else "shaken"
            x, y, z = np.array([0.0, 0.1, 1.0]) + dice.normal(0, 0.02 if label == "still" else 0.6, 3)
            table.writerow([f"{n / 31:.4f}", f"{x:.4f}", f"{y:.4f}", f"{z:.4f}", label])
    return path


def write_story(folder: Path, seed: int) -> Path:
    """Some hundred sentences."""
    dice = np.random.default_rng(seed)
    path = folder / "story.txt"
    path.write_text("".join(story(dice) for _ in range(20)), encoding="utf-8")
    return path


def write_events(folder: Path, seed: int) -> Path:
    """Sixty visitors who each go through one of two shelves in its order, the rows of all mixed in time."""
    dice = np.random.default_rng(seed)
    shelves = [[f"a{n}" for n in range(6)], [f"b{n}" for n in range(6)]]
    rows: list[tuple[float, str, str]] = []
    for visitor in range(60):
        shelf, start = shelves[visitor % 2], int(dice.integers(2))
        times = np.sort(dice.uniform(0, 1e6, size=5))
        rows += [(float(t), f"v{visitor}", shelf[(start + n) % 6]) for n, t in enumerate(times)]
    path = folder / "events.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["when", "visitor", "product"])
        table.writerows((f"{when:.2f}", visitor, product) for when, visitor, product in sorted(rows))
    return path


def write_pairs(folder: Path, seed: int) -> Path:
    """Two hundred sentences of a made-up language, and some lines to be passed through."""
    dice = np.random.default_rng(seed)
    pairs = [made_up_pairs.sentence(dice) for _ in range(200)]
    lines = ["source\ttarget", *("\t".join(pair) for pair in pairs[:7]), "\t", *("\t".join(pair) for pair in pairs[7:])]
    path = folder / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_conversations(folder: Path, seed: int) -> Path:
    """Forty conversations of unequal length, a row per message."""
    dice = np.random.default_rng(seed)
    path = folder / "conversations.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["dialogue id", "speaker", "text", "intent", "slots", "facts"])
        for number in range(40):
            for turn in made_up_talk.conversation(str(number), dice).turns:
                slots, facts = (
                    "; ".join(f"{name}={value}" for name, value in part) for part in (turn.slots or (), turn.facts)
                )
                table.writerow([number, turn.speaker, turn.text, turn.intent, slots, facts])
    return path


QUICK = Recipe(steps=30, batch=16, learning_rate=5e-3, validate_every=10)
CONTRACTS = [
    Contract(
        "language",
        {"unit": "words", "width": 16, "hidden": 16, "back": 12, "length": 20, "dropout": 0.1, "weight_drop": 0.1},
        replace(QUICK, steps=180, batch=8, average=0.0, learning_rate=0.02),
        40,
        write_story,
        reads_text=True,
    ),
    Contract(
        "forecast", {"hidden": 9, "members": 1, "horizon": 5, "context": 24}, replace(QUICK, steps=90), 5, write_series
    ),
    Contract("recommend", {"hidden": 16, "width": 16, "dropout": 0.1}, replace(QUICK, steps=120), 120, write_events),
    Contract(
        "translate",
        {"vocabulary": 300, "width": 16, "hidden": 16, "dropout": 0.1, "max_length_ratio": 1.0, "beam": 2},
        replace(QUICK, steps=60),
        120,
        write_pairs,
        reads_text=True,
    ),
    Contract(
        "chat",
        {
            "vocabulary": 300,
            "width": 16,
            "hidden": 16,
            "dropout": 0.1,
            "length": 20,
            "members": 2,
            "message_width": 8,
            "message_hidden": 8,
        },
        replace(QUICK, steps=60),
        60,
        write_conversations,
        reads_text=True,
    ),
    Contract("activity", {"hidden": 7, "filters": 9}, QUICK, 4, write_recording),
]
