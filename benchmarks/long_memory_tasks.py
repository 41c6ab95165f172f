"""The tasks of Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8):1735-1780, 1997, section 5.

Each class is one experiment: how its sequences are made, what is asked of the network, and when the paper calls it
solved. The numbers are the paper's; where its text leaves a choice open, the docstring says which one was made.
Positions in docstrings count from 1, as in the paper. Experiment 1 is in long_memory_reber.py.

Symbols are written one to a channel ("local representation"): a batch holds their numbers, and whoever reads it looks
up a column of the input weights, which is what a product with the unit vector gives. Output units are logistic.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

Rng = np.random.Generator


class Batch(NamedTuple):
    """Sequences, and what the network should say. Where targets have a time axis they are wanted at every step."""

    x: Tensor  # symbols [time, batch] int64, or numbers [time, batch, features] float32
    lengths: Tensor  # [batch] int64
    targets: Tensor  # what is trained on: [batch, outputs] at each sequence's end, or [time, batch, outputs]
    expected: Tensor  # what is judged by: the same shape; differs where targets are noisy (3c) or one of several (1)


class Judged(NamedTuple):
    """One number per sequence."""

    wrong: Tensor  # [batch] bool: not processed correctly, as the experiment defines it
    error: Tensor  # [batch] mean absolute error of the output units at the steps that are judged

    @staticmethod
    def joined(parts: list["Judged"]) -> "Judged":
        return Judged(torch.cat([part.wrong for part in parts]), torch.cat([part.error for part in parts]))


class Rule(NamedTuple):
    """When so many sequences in a row count as mastered."""

    sequences: int  # how many
    fewer_than: int = 1  # wrong ones
    mean_error: float = math.inf  # below which the mean absolute error must be

    def passes(self, judged: Judged) -> bool:
        """Whether the last ``sequences`` of these fulfil the rule; fewer than that never do."""
        wrong, error = judged.wrong[-self.sequences :], judged.error[-self.sequences :]
        enough = len(wrong) == self.sequences
        return enough and int(wrong.sum()) < self.fewer_than and float(error.mean()) < self.mean_error


class Shape(NamedTuple):
    """What goes in and out of the network, and for how long."""

    outputs: int  # logistic units
    longest: int  # steps, give or take random endings: the time scale of the task
    symbols: int = 0  # how many different input symbols; 0 where inputs are numbers
    features: int = 0  # numbers per step; 0 where inputs are symbols


class Aim(NamedTuple):
    """When training may stop: the latest training sequences fulfil ``training``, and then the exam's fulfil ``exam``.

    A training sequence is judged before the network has learned from it.
    """

    tolerance: float  # absolute error of an output unit from which on a sequence is wrong
    training: Rule
    exam: Rule | None = None  # None: the paper stops by the training sequences alone


class Source(NamedTuple):
    """The sequences of one trial."""

    draw: Callable[[int], Batch]  # so many training sequences
    exam: Callable[[], Iterator[Batch]]  # what is processed when training seems to be done; empty without an exam


class Task(ABC):
    """One experiment. A task's fields are what the paper varies."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """What goes in and out."""

    @property
    @abstractmethod
    def aim(self) -> Aim:
        """When the paper calls it solved."""

    @abstractmethod
    def batch(self, count: int, rng: Rng) -> Batch:
        """``count`` random sequences."""

    def source(self, rng: Rng) -> Source:
        """Sequences for one trial: new ones for ever, as in all experiments but 1 and 2a."""
        sizes = pieces(self.aim.exam.sequences if self.aim.exam else 0)
        return Source(lambda count: self.batch(count, rng), lambda: (self.batch(size, rng) for size in sizes))

    def judge(self, outputs: Tensor, batch: Batch) -> Judged:
        """Compare output activations with what is expected at the sequence's end: every unit within the tolerance."""
        error = (outputs - batch.expected).abs()  # [batch, outputs]
        return Judged((error >= self.aim.tolerance).any(-1), error.mean(-1))


def pieces(count: int, size: int = 256) -> list[int]:
    """A count as batches of at most this size."""
    return [min(size, count - start) for start in range(0, count, size)]


def lengths_between(shortest: int, longest: int, count: int, rng: Rng) -> np.ndarray:
    """Random lengths, both bounds included."""
    return rng.integers(shortest, longest + 1, count)


def at_last(array: np.ndarray, lengths: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of every sequence's last step in an array [time, batch, ...]."""
    return np.asarray(lengths) - 1, np.arange(array.shape[1])


def unit_vectors(numbers: np.ndarray, size: int) -> Tensor:
    """[...] -> [..., size], 1 at the number's place."""
    return torch.nn.functional.one_hot(torch.from_numpy(numbers), size).float()


# 2 -------------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class NoiseFree(Task):
    """5.2, tasks 2a and 2b: y ... y or x ... x; predict every next symbol, the last one from the first, p steps ago.

    2a: between them always a_1 ... a_{p-1}, so there are two sequences in all. Solved when the absolute error of every
    output unit is below 0.25 at every step of 10,000 random sequences, which both sequences decide.
    2b (``random``): between them p - 1 random symbols, which nobody can predict. Solved when at the end of 10,000 new
    sequences every output unit is within 0.25.
    """

    p: int = 100
    random: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(outputs=self.p + 1, longest=self.p, symbols=self.p + 1)

    @property
    def aim(self) -> Aim:
        return Aim(0.25, Rule(256), Rule(10_000 if self.random else 2))

    def batch(self, count: int, rng: Rng) -> Batch:
        return self.framed(rng.integers(self.p - 1, self.p + 1, count), rng)

    def framed(self, first: np.ndarray, rng: Rng) -> Batch:
        """Sequences that begin and end with these symbols: p - 1 is x, p is y."""
        if self.random:
            middle = rng.integers(0, self.p - 1, (self.p - 1, len(first)))
        else:
            middle = np.repeat(np.arange(self.p - 1)[:, None], len(first), axis=1)
        whole = np.concatenate([first[None], middle, first[None]])  # [p + 1, batch]
        targets = unit_vectors(whole[1:], self.p + 1)
        return Batch(torch.from_numpy(whole[:-1]), torch.full((len(first),), self.p), targets, targets)

    def source(self, rng: Rng) -> Source:
        draw, exam = super().source(rng)
        if self.random:
            return Source(draw, exam)
        return Source(draw, lambda: iter((self.framed(np.array([self.p - 1, self.p]), rng),)))

    def judge(self, outputs: Tensor, batch: Batch) -> Judged:
        error = (outputs - batch.expected).abs()  # [time, batch, outputs]
        error = error[-1:] if self.random else error
        return Judged((error >= self.aim.tolerance).any(-1).any(0), error.mean(-1).mean(0))


@final
@dataclass(frozen=True)
class LongLag(Task):
    """5.2, task 2c: b, then x or y, then q or more distractors, then e; say whether it was x or y.

    p different distractors, drawn at random; after q of them each further step ends the sequence with probability 1/10.
    Minimal lag q + 1. Solved when both output units are within 0.2 at the end of 10,000 new sequences.
    """

    q: int
    p: int

    @property
    def shape(self) -> Shape:
        return Shape(outputs=2, longest=self.q + 12, symbols=self.p + 4)  # on average: b, x or y, q + 9 more, e

    @property
    def aim(self) -> Aim:
        return Aim(0.2, Rule(256), Rule(10_000))

    def batch(self, count: int, rng: Rng) -> Batch:
        e, b, x_symbol = self.p, self.p + 1, self.p + 2
        lengths = self.q + 2 + rng.geometric(0.1, count)  # b, x or y, q + k distractors, e with k >= 0
        which = rng.integers(0, 2, count)
        x = rng.integers(0, self.p, (lengths.max(), count))
        x[0], x[1] = b, x_symbol + which
        x[at_last(x, lengths)] = e
        targets = unit_vectors(which, 2)
        return Batch(torch.from_numpy(x), torch.from_numpy(lengths), targets, targets)


# 3 -------------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class TwoSequence(Task):
    """5.3: noise and signal on one line. The first n numbers are 1 (class 1) or -1 (class 2), all others noise.

    Noise is Gaussian with variance 0.2; lengths lie between t and t + t/10. The target at the end is 1 or 0.
    3a (Bengio et al. 1994): as said. Stop ("ST2"): none of 256 test sequences off by more than 0.2, mean absolute error
    below 0.01.
    3b (``noisy_signal``): the same noise on the signal. Fewer than 6 of 256; below 0.04.
    3c (``noisy_target``): the signal as in 3a; the targets are 0.2 (class 1) and 0.8 (class 2) with Gaussian noise of
    variance 0.1: the mean is to be found. None of 256 further than 0.1 from the noise-free target, mean below 0.015.
    The paper speaks of a randomly chosen test set: we draw a new one for every attempt.
    """

    t: int = 100
    n: int = 3
    noisy_signal: bool = False
    noisy_target: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(outputs=1, longest=self.t + self.t // 10, features=1)

    @property
    def aim(self) -> Aim:
        if self.noisy_target:
            return Aim(0.1, Rule(256, 1, 0.015), Rule(256, 1, 0.015))
        rule = Rule(256, 6, 0.04) if self.noisy_signal else Rule(256, 1, 0.01)
        return Aim(0.2, rule, rule)

    def batch(self, count: int, rng: Rng) -> Batch:
        lengths = lengths_between(self.t, self.shape.longest, count, rng)
        first_class = rng.integers(0, 2, count)
        x = rng.normal(0, np.sqrt(0.2), (lengths.max(), count, 1))
        signal = (2.0 * first_class - 1)[None, :, None]  # [1, batch, 1]
        x[: self.n] = signal + (x[: self.n] if self.noisy_signal else 0.0)
        expected = 0.8 - 0.6 * first_class if self.noisy_target else 1.0 * first_class
        targets = expected + (rng.normal(0, np.sqrt(0.1), count) if self.noisy_target else 0.0)
        return Batch(numbers(x), torch.from_numpy(lengths), numbers(targets)[:, None], numbers(expected)[:, None])


def numbers(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


# 4 and 5 -------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Marked(Task):
    """5.4 and 5.5: pairs (number, marker). Two numbers are marked; at the end say their sum (4) or product (5).

    Lengths lie between t and t + t/10. One of the first ten pairs is marked, then one of the first t/2 - 1 others, so
    that the minimal lag is t/2. Markers are 1 there, -1 at the first and the last pair, 0 elsewhere. Where the first
    pair is drawn its marker stays -1 and its number becomes 0 (4) or 1 (5), which changes neither sum nor product: so
    we read the paper's sentence about this rare case.
    4: numbers in [-1, 1], target 0.5 + sum/4. Stop: the last 2,000 training sequences within 0.04, their mean absolute
    error below 0.01. 5 (``product``): numbers in [0, 1], target the product. Stop: fewer than 140, or 13, of the last
    2,000 off by more than 0.04.
    """

    t: int = 100
    product: bool = False
    fewer_than: int = 1  # of the last 2,000

    @property
    def shape(self) -> Shape:
        return Shape(outputs=1, longest=self.t + self.t // 10, features=2)

    @property
    def aim(self) -> Aim:
        return Aim(0.04, Rule(2000, self.fewer_than, math.inf if self.product else 0.01))

    def batch(self, count: int, rng: Rng) -> Batch:
        rows = np.arange(count)
        lengths = lengths_between(self.t, self.shape.longest, count, rng)
        value = rng.uniform(0.0 if self.product else -1.0, 1.0, (lengths.max(), count))
        first = rng.integers(0, 10, count)
        second = rng.integers(0, self.t // 2 - 1, count)
        second += second >= first  # the first t/2 - 1 pairs that are still unmarked
        for place in (first, second):
            value[0, place == 0] = 1.0 if self.product else 0.0
        marker = np.zeros_like(value)
        marker[first, rows] = marker[second, rows] = 1.0
        marker[0] = -1.0
        marker[at_last(marker, lengths)] = -1.0
        one, other = value[first, rows], value[second, rows]
        targets = numbers(one * other if self.product else 0.5 + (one + other) / 4)[:, None]
        return Batch(numbers(np.stack([value, marker], axis=-1)), torch.from_numpy(lengths), targets, targets)


# 6 -------------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class TemporalOrder(Task):
    """5.6: E, then random a b c d, among them two (6a) or three (6b) symbols X or Y far apart, then B; which, in order?

    Lengths lie between 100 and 110. 6a: positions 10-20 and 50-60, four classes, minimal lag 40. 6b: 10-20, 33-43 and
    66-76, eight classes, minimal lag 24. One output unit per class. Stop: the last 2,000 training sequences right,
    every unit within 0.3, and their mean absolute error below 0.1. ``shrink`` divides all positions and lengths: a toy
    for tests.
    """

    relevant: int = 2
    shrink: int = 1

    @property
    def shape(self) -> Shape:
        return Shape(outputs=2**self.relevant, longest=110 // self.shrink, symbols=8)  # a b c d X Y E B

    @property
    def aim(self) -> Aim:
        return Aim(0.3, Rule(2000, 1, 0.1))

    def batch(self, count: int, rng: Rng) -> Batch:
        lengths = lengths_between(100 // self.shrink, self.shape.longest, count, rng)
        x = rng.integers(0, 4, (lengths.max(), count))
        x[0] = 6
        label = np.zeros(count, dtype=np.int64)
        for start in (10, 50) if self.relevant == 2 else (10, 33, 66):
            which = rng.integers(0, 2, count)
            place = lengths_between(start // self.shrink, (start + 10) // self.shrink, count, rng)
            x[place - 1, np.arange(count)] = 4 + which
            label = 2 * label + which
        x[at_last(x, lengths)] = 7
        targets = unit_vectors(label, 2**self.relevant)
        return Batch(torch.from_numpy(x), torch.from_numpy(lengths), targets, targets)
