"""Quantiles: learned, never crossed, and intervals that cover what they promise."""

import numpy as np
import pytest
import torch

from holdfast.parts.quantiles import (
    LEVELS,
    QuantileHead,
    conformal_widening,
    mean_of_quantiles,
    pinball,
    widened,
)


def test_pinball_is_smallest_at_the_quantile() -> None:
    sample = torch.randn(20001, generator=torch.Generator().manual_seed(5)) * 3 + 1
    levels = torch.tensor([0.1, 0.5, 0.9])
    true = torch.quantile(sample, levels)
    at = [pinball((true + shift).expand(len(sample), 3), sample, levels).mean(0) for shift in (-0.3, 0.0, 0.3)]
    assert (at[1] < at[0]).all() and (at[1] < at[2]).all()
    torch.testing.assert_close(
        pinball(torch.tensor([[2.0]]), torch.tensor([5.0]), torch.tensor([0.5])), torch.tensor([[3.0]])
    )


def test_head_cannot_cross() -> None:
    torch.manual_seed(0)
    head = QuantileHead(features=4, steps=3, levels=5)
    with torch.no_grad():
        head.linear.weight.mul_(100)
    out = head(torch.randn(7, 2, 4) * 10)
    assert out.shape == (7, 2, 3, 5)
    assert (out.diff(dim=-1) >= 0).all()
    with pytest.raises(ValueError, match="odd"):
        QuantileHead(features=4, steps=3, levels=4)


def test_conformal_widening_covers() -> None:
    rng = np.random.default_rng(1)
    spread = np.linspace(1, 3, 6)  # the truth is wider further ahead; the interval handed in is not

    def draw(count: int) -> np.ndarray:
        return rng.normal(size=(count, 6)) * spread

    target = draw(900)
    target[::7, 2] = np.nan
    low, high = np.full((900, 6), -1.0), np.full((900, 6), 1.0)
    widening = conformal_widening(low, high, target, 0.8)
    fresh = draw(20000)
    covered = ((fresh >= -1 - widening) & (fresh <= 1 + widening)).mean(0)
    # 900 scores: the standard error of a coverage of 0.8 is 0.013, three of them are allowed
    np.testing.assert_allclose(covered, 0.8, atol=0.04)
    assert widening[0] < widening[-1]


def test_conformal_widening_borrows_where_little_is_known() -> None:
    rng = np.random.default_rng(2)
    target = rng.normal(size=(5, 24))
    widening = conformal_widening(np.zeros((5, 24)), np.zeros((5, 24)), target, 0.8)
    assert widening.std() < 0.25 and (widening > 0.8).all()  # one step alone would have five scores
    nothing = conformal_widening(np.zeros((2, 3)), np.zeros((2, 3)), np.full((2, 3), np.nan), 0.8)
    assert nothing.tolist() == [0, 0, 0]


def test_widened_moves_pairs_and_does_not_cross() -> None:
    quantiles = np.tile(np.arange(-2.0, 3.0), (2, 3, 1))  # [windows, horizon, levels]
    moved = widened(quantiles, (0.1, 0.3, 0.5, 0.7, 0.9), np.array([[1.0, 0.5], [-3.0, 0.0], [0.0, -5.0]]))
    np.testing.assert_array_equal(moved[0, 0], [-3, -1.5, 0, 1.5, 3])
    np.testing.assert_array_equal(moved[1, 1], [-1, -1, 0, 1, 1])
    np.testing.assert_array_equal(moved[0, 2], [-2, 0, 0, 0, 2])


def test_mean_of_quantiles_of_a_straight_line_is_its_middle() -> None:
    levels = np.array(LEVELS)
    assert mean_of_quantiles(10 * levels, LEVELS) == pytest.approx(5.0)
    assert mean_of_quantiles(np.full((3, len(LEVELS)), 7.0), LEVELS).tolist() == pytest.approx([7, 7, 7])


def test_conformal_widening_errs_on_the_wide_side_where_little_is_known() -> None:
    target = np.random.default_rng(8).normal(size=(400, 1))
    zero = np.zeros((400, 1))
    plain, few, many = (
        float(conformal_widening(zero, zero, target, 0.8, independent=count)[0]) for count in (None, 4, 40000)
    )
    assert few == pytest.approx(np.quantile(np.abs(target), 0.9), abs=0.04)  # half way to 1; 0.04: two of 400 draws
    assert plain <= many < plain + 0.05 < few
