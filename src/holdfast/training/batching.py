"""The order in which examples meet the network: buckets of like length, and streams that go on from batch to batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

BUCKET = 16  # batches sorted together: little padding, still well mixed


def bucketed(
    items: Sequence[Item], size: int, rng: np.random.Generator | None, length: Callable[[Item], float]
) -> Iterator[list[Item]]:
    """Batches of ``size`` items of like length, every item once.

    With dice the items are shuffled, sorted by length within groups of a few batches, and the batches come in random
    order. Without dice they come as they stand: the order of validation.
    """
    if rng is None:
        for begin in range(0, len(items), size):
            yield list(items[begin : begin + size])
        return
    order = rng.permutation(len(items))
    batches: list[np.ndarray] = []
    for begin in range(0, len(order), size * BUCKET):
        group = order[begin : begin + size * BUCKET]
        group = group[np.argsort([length(items[i]) for i in group], kind="stable")]
        batches += [group[at : at + size] for at in range(0, len(group), size)]
    for number in rng.permutation(len(batches)):
        yield [items[i] for i in batches[number]]


def continuing(tokens: np.ndarray, rows: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One long stream cut into ``rows`` parallel ones, given ``steps`` at a time: (inputs, targets) [rows, steps].

    Row r of one batch goes on in row r of the next, so a state carried from batch to batch sees an unbroken stream
    (truncated backpropagation through time, Williams & Peng 1990). The last batch is shorter; at most ``rows`` tokens
    at the end are left out.
    """
    width = (len(tokens) - 1) // rows
    inputs = tokens[: rows * width].reshape(rows, width)
    targets = tokens[1 : rows * width + 1].reshape(rows, width)
    for begin in range(0, width, steps):
        yield inputs[:, begin : begin + steps], targets[:, begin : begin + steps]
