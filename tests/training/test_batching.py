"""Order of examples: nothing lost, nothing twice, little padding, streams unbroken."""

import numpy as np

from holdfast.training.batching import bucketed, continuing


def test_every_item_once_and_batches_of_like_length() -> None:
    dice = np.random.default_rng(0)
    items = [int(n) for n in dice.integers(1, 1000, 331)]
    batches = list(bucketed(items, 8, np.random.default_rng(1), length=float))
    assert sorted(item for batch in batches for item in batch) == sorted(items)
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    unsorted = [items[begin : begin + 8] for begin in range(0, len(items), 8)]
    assert padding < 0.25 * sum(max(batch) * len(batch) - sum(batch) for batch in unsorted)


def test_the_same_dice_give_the_same_order_and_others_another() -> None:
    items = list(range(50))
    first = list(bucketed(items, 4, np.random.default_rng((0, 3)), length=float))
    assert first == list(bucketed(items, 4, np.random.default_rng((0, 3)), length=float))
    assert first != list(bucketed(items, 4, np.random.default_rng((0, 4)), length=float))


def test_without_dice_as_they_stand() -> None:
    assert list(bucketed([3, 1, 2], 2, None, length=float)) == [[3, 1], [2]]


def test_a_row_goes_on_in_the_next_batch() -> None:
    tokens = np.arange(31)
    batches = list(continuing(tokens, rows=3, steps=4))
    inputs = np.concatenate([i for i, _ in batches], axis=1)
    targets = np.concatenate([t for _, t in batches], axis=1)
    np.testing.assert_array_equal(inputs, np.arange(30).reshape(3, 10))
    np.testing.assert_array_equal(targets, inputs + 1)
    assert [i.shape for i, _ in batches] == [(3, 4), (3, 4), (3, 2)]
