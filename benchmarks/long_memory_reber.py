"""Experiment 1 of Hochreiter & Schmidhuber 1997: the embedded Reber grammar."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from long_memory_tasks import Aim, Batch, Judged, Rng, Rule, Shape, Source, Task, unit_vectors

Walk = list[tuple[str, str]]  # letters of one string, each with the letters that could have stood there

LETTERS = "BTPSXVE"
# Reber's grammar: from each node the edges (letter, next node). It begins at node 0 and ends after the E.
REBER: tuple[dict[str, int], ...] = (
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)


def reber(rng: Rng) -> Walk:
    """A walk through the grammar, every edge with probability 1/2."""
    steps: Walk = []
    node = 0
    while node < len(REBER):
        edges = REBER[node]
        letter = list(edges)[rng.integers(len(edges))]
        steps.append((letter, "".join(edges)))
        node = edges[letter]
    return steps


def embedded_reber(rng: Rng) -> Walk:
    """B, T or P, a string of Reber's grammar, the same T or P again, E."""
    outer = "TP"[rng.integers(2)]
    return [("B", "B"), (outer, "TP"), *reber(rng), (outer, outer), ("E", "E")]


@final
@dataclass(frozen=True)
class EmbeddedReber(Task):
    """5.1: read a string of the embedded Reber grammar and predict the next letter all the time.

    All letters but one follow from the last few; the last but one repeats the second, at least 9 steps earlier. There
    are 256 random training strings and 256 others, none of them a training string, for the test. A string is right
    when at every step the units of all letters that may come next are more active than all others. Solved when every
    string of both sets is right.
    """

    strings: int = 256

    @property
    def shape(self) -> Shape:
        return Shape(outputs=len(LETTERS), longest=30, symbols=len(LETTERS))

    @property
    def aim(self) -> Aim:
        return Aim(0.0, Rule(256), Rule(2 * self.strings))

    def batch(self, count: int, rng: Rng) -> Batch:
        return self.spelled([embedded_reber(rng) for _ in range(count)])

    def spelled(self, strings: list[Walk]) -> Batch:
        """Walks as a batch: every letter but the last is read, every letter but the first predicted."""
        lengths = np.array([len(string) - 1 for string in strings])
        x = np.zeros((lengths.max(), len(strings)), dtype=np.int64)
        following = np.zeros_like(x)
        expected = torch.zeros(*x.shape, len(LETTERS))
        for row, string in enumerate(strings):
            letters = [LETTERS.index(letter) for letter, _ in string]
            x[: len(letters) - 1, row], following[: len(letters) - 1, row] = letters[:-1], letters[1:]
            for step, (_, possible) in enumerate(string[1:]):
                expected[step, row, [LETTERS.index(letter) for letter in possible]] = 1.0
        targets = unit_vectors(following, len(LETTERS))
        return Batch(torch.from_numpy(x), torch.from_numpy(lengths), targets, expected)

    def source(self, rng: Rng) -> Source:
        """Training strings are drawn from the training set; the exam is both sets."""
        train = [embedded_reber(rng) for _ in range(self.strings)]
        seen = {spelling(string) for string in train}
        test: list[Walk] = []
        while len(test) < self.strings:
            string = embedded_reber(rng)
            if spelling(string) not in seen:
                test.append(string)
        known, unknown = self.spelled(train), self.spelled(test)

        def draw(count: int) -> Batch:
            rows = torch.from_numpy(rng.integers(self.strings, size=count))
            longest = int(known.lengths[rows].max())
            x, targets, expected = (part[:longest, rows] for part in (known.x, known.targets, known.expected))
            return Batch(x, known.lengths[rows], targets, expected)

        return Source(draw, lambda: iter((known, unknown)))

    def judge(self, outputs: Tensor, batch: Batch) -> Judged:
        possible = batch.expected > 0.5  # [time, batch, letters]
        least = outputs.masked_fill(~possible, torch.inf).amin(-1)  # [time, batch]; infinite behind a string's end
        most = outputs.masked_fill(possible, -torch.inf).amax(-1)
        runs = torch.arange(len(outputs)).unsqueeze(1) < batch.lengths
        error = ((outputs - batch.targets).abs().mean(-1) * runs).sum(0) / batch.lengths
        return Judged((least <= most).any(0), error)


def spelling(string: Walk) -> str:
    return "".join(letter for letter, _ in string)
