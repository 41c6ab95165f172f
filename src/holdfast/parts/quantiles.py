"""Quantiles: the loss that teaches them, a head that cannot cross them, and intervals that keep their promise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# 10 % ... 90 %, and the two that the 95 % interval needs. Odd in number: the middle one is the median.
LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)


def pinball(predicted: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Pinball (quantile) loss of predicted [..., levels] for target [...], [..., levels]. Koenker & Bassett 1978.

    Twice the usual one, so that at the median it is the absolute error.
    """
    error = target.unsqueeze(-1) - predicted
    return 2 * torch.maximum(levels * error, (levels - 1) * error)


class QuantileHead(nn.Module):
    """Features -> quantiles of several steps that cannot cross: a median, and steps away from it, never negative."""

    def __init__(self, features: int, steps: int, levels: int) -> None:
        super().__init__()
        if levels % 2 == 0:
            raise ValueError(f"the levels must be odd in number, with the median in the middle, not {levels}")
        self.steps, self.levels = steps, levels
        self.linear = nn.Linear(features, steps * levels)
        with torch.no_grad():  # a start near the median, with narrow steps: the loss spreads them quickly
            self.linear.weight.mul_(0.1)
            self.linear.bias.copy_(torch.tensor([0.0] + [-2.0] * (levels - 1)).repeat(steps))

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> [..., steps, levels], ascending along the levels."""
        out = self.linear(x).unflatten(-1, (self.steps, self.levels))
        return spread(out[..., :1], out[..., 1:], self.levels // 2)


def spread(median: Tensor, steps: Tensor, half: int) -> Tensor:
    """A median [..., 1] and raw steps [..., 2 * half] -> ascending quantiles [..., 2 * half + 1]."""
    steps = functional.softplus(steps)
    below = median - steps[..., :half].cumsum(-1).flip(-1)
    above = median + steps[..., half:].cumsum(-1)
    return torch.cat([below, median, above], dim=-1)


def mean_of_quantiles(quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The mean [...] of the distribution with these quantiles [..., levels]: each stands for the levels around it."""
    edges = np.concatenate([[0.0], (np.asarray(levels[1:]) + np.asarray(levels[:-1])) / 2, [1.0]])
    return quantiles @ np.diff(edges)


def conformal_widening(
    lower: np.ndarray, upper: np.ndarray, target: np.ndarray, coverage: float, *, independent: int | None = None
) -> np.ndarray:
    """How much further out the ends of an interval must lie to cover their share: split-conformal, per step ahead.

    Conformalized quantile regression (Romano, Patterson & Candes, NeurIPS 2019). Negative where it is too wide.
    A step ahead with few observations borrows those of its neighbours.

    Args:
        lower, upper, target: [windows, horizon], in units in which windows compare; target NaN where missing.
        coverage: the share to be covered, 0..1.
        independent: how many of the windows do not overlap. Where it is given the share aimed at is the one that still
            covers with 95 % confidence after so many draws, at most half way to all: wide where little is known.

    Returns: [horizon], in the same units; zeros where nothing was observed.
    """
    if independent is not None:
        doubt = 1.645 * np.sqrt(coverage * (1 - coverage) / max(1, independent))
        coverage += min(doubt, (1 - coverage) / 2)
    score = np.maximum(lower - target, target - upper)  # [windows, horizon]
    horizon = score.shape[1]
    enough = 20 / (1 - coverage)  # scores: twenty of them outside the interval
    widening = np.zeros(horizon)
    for step in range(horizon):
        reach, near = 0, score[:, step]
        while np.isfinite(near).sum() < enough and reach < horizon:
            reach += 1
            near = score[:, max(0, step - reach) : step + reach + 1]
        near = near[np.isfinite(near)]
        if near.size:
            share = min(1.0, np.ceil((near.size + 1) * coverage) / near.size)
            widening[step] = np.quantile(near, share, method="higher")
    return widening


def widened(quantiles: np.ndarray, levels: Sequence[float], widening: np.ndarray) -> np.ndarray:
    """Quantiles [..., horizon, levels], their pairs moved out by widening [..., horizon, pairs], widest pair first.

    No quantile crosses the next: a pair that would cross its inner neighbour stops there.
    """
    half = len(levels) // 2
    moved = quantiles.copy()
    for pair in range(half):
        moved[..., pair] -= widening[..., pair]
        moved[..., -1 - pair] += widening[..., pair]
    for pair in range(half - 1, -1, -1):  # from the median outwards
        moved[..., pair] = np.minimum(moved[..., pair], moved[..., pair + 1])
        moved[..., -1 - pair] = np.maximum(moved[..., -1 - pair], moved[..., -2 - pair])
    return moved
