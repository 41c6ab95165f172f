"""Sequences: padding in, padding out, and nothing of it in any answer."""

import pytest
import torch

from holdfast.parts.sequences import Sequences

ROWS = [torch.arange(6.0).reshape(2, 3), torch.arange(15.0).reshape(5, 3) + 10, torch.zeros(0, 3)]


def test_pad_and_rows_are_inverse() -> None:
    batch = Sequences.pad(ROWS)
    assert batch.data.shape == (3, 5, 3) and batch.lengths.tolist() == [2, 5, 0]
    for row, back in zip(ROWS, batch.rows(), strict=True):
        torch.testing.assert_close(back, row)


def test_mask_last_and_mean_ignore_padding() -> None:
    batch = Sequences.pad(ROWS)
    y = batch.data.clone()
    y[~batch.mask] = float("nan")
    assert batch.mask.sum(1).tolist() == [2, 5, 0]
    torch.testing.assert_close(batch.last(y), torch.stack([ROWS[0][-1], ROWS[1][-1], torch.zeros(3)]))
    torch.testing.assert_close(batch.mean(y), torch.stack([ROWS[0].mean(0), ROWS[1].mean(0), torch.zeros(3)]))


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        Sequences(torch.zeros(3, 5, 2), torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="batch 3"):
        Sequences(torch.zeros(3, 5, 2), torch.tensor([1, 2]))
