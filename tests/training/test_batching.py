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


def test_with_dice_rows_begin_anywhere_in_their_parts_and_end_there() -> None:
    tokens = np.arange(1000)

    def epoch(seed: int) -> np.ndarray:
        batches = list(continuing(tokens, 3, 7, np.random.default_rng(seed)))
        inputs = np.concatenate([i for i, _ in batches], axis=1)
        targets = np.concatenate([t for _, t in batches], axis=1)
        np.testing.assert_array_equal(targets, inputs + 1)
        return inputs

    first, second = epoch(0), epoch(1)
    for inputs in (first, second):
        begin, width = inputs.min(), inputs.shape[1]
        assert begin < 7 and width == (1000 - begin - 1) // 3
        for row, part in enumerate(inputs):
            np.testing.assert_array_equal(np.sort(part), begin + row * width + np.arange(width))
            assert (np.diff(part) != 1).sum() <= 1  # where it goes on at the front of its part
    apart = [np.diff(inputs[:, 0]) for inputs in (first, second)]
    assert (apart[0] != apart[1]).any()  # other passages meet
    np.testing.assert_array_equal(first, epoch(0))


def test_with_dice_the_shortest_streams_have_batches() -> None:
    for length in range(2, 30):
        for steps in range(1, length):
            rows = max(1, (length - 1) // steps)
            for seed in range(5):
                batches = list(continuing(np.arange(length), rows, steps, np.random.default_rng(seed)))
                assert batches and all(inputs.shape == targets.shape for inputs, targets in batches)
