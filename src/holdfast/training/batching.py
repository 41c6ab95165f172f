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


def continuing(
    tokens: np.ndarray, rows: int, steps: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One long stream cut into ``rows`` parallel ones, given ``steps`` at a time: (inputs, targets) [rows, steps].

    Row r of one batch goes on in row r of the next, so a state carried from batch to batch sees an unbroken stream
    (truncated backpropagation through time, Williams & Peng 1990). The last batch is shorter; at most ``rows`` tokens
    at the end are left out.

    With dice every row begins anywhere in its part of the stream and ends there, so that in each epoch other passages
    meet in a batch (Press, "Partially Shuffling the Training Data to Improve Language Models", 2019); and up to
    ``steps`` tokens at the very beginning are left out, so that the rows' parts have other borders.
    """
    if rng is not None:
        tokens = tokens[int(rng.integers(min(steps, max(1, len(tokens) // 2)))) :]
    width = (len(tokens) - 1) // rows
    firsts = np.arange(rows)[:, None] * width  # [rows, 1]
    turns = np.zeros_like(firsts) if rng is None else rng.integers(max(1, width), size=(rows, 1))
    for begin in range(0, width, steps):
        places = firsts + (turns + np.arange(begin, min(begin + steps, width))) % width
        yield tokens[places], tokens[places + 1]
