"""A network's forecast mixed with theta and exponential smoothing: what short series need (and M4's winners did)."""

from collections.abc import Sequence

import numpy as np

from .backtest import AT_ONCE, Asked, right_aligned
from .baselines import theta
from .series import Series
from .smoothing import exponential_smoothing
from .windows import Cut

SHARES = tuple(round(1 - tenth / 10, 1) for tenth in range(11))  # of the network: 1.0 first, so that ties go to it
WORTH = 0.995  # a smaller share must lower the error at least this much


def classic(cut: Cut, examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, memory: int) -> np.ndarray:
    """Mean of theta and exponential smoothing [windows, horizon], in seen values, from the newest ``memory`` values."""
    found: list[np.ndarray] = []
    for begin in range(0, len(which), AT_ONCE):
        at = slice(begin, begin + AT_ONCE)
        past = right_aligned(examples, which[at], origins[at], memory)
        floor = np.array([cut.floor_of(row) for row in past])[:, None]
        smoothed = cut.seen(exponential_smoothing(past, cut.season, cut.horizon).median, floor)
        # theta's seasons are multiplicative: on values that are not all positive it would have none
        found.append(
            (smoothed + cut.seen(theta(past, cut.season, cut.horizon), floor)) / 2 if cut.logarithmic else smoothed
        )
    return np.concatenate(found)


def best_share(median: np.ndarray, classic: np.ndarray, asked: Asked) -> float:
    """The network's share with the smallest error: its medians and the classic forecasts [windows, horizon]."""
    errors = [blend_error(share * median + (1 - share) * classic, asked) for share in SHARES]
    best = int(np.argmin(errors))
    return SHARES[best] if errors[best] < WORTH * errors[0] else 1.0


def blend_error(forecast: np.ndarray, asked: Asked) -> float:
    """Absolute error in each window's own scale, plus the same in the scale common to all windows."""
    error = np.abs(forecast - asked.target)
    return float(np.nanmean(error / asked.scale[:, None]) + np.nanmean(error) / np.mean(asked.scale))


def blended(quantiles: np.ndarray, classic: np.ndarray, share: float) -> np.ndarray:
    """Quantiles [windows, horizon, levels] moved so that their medians are the blend; their spread stays."""
    median = quantiles[..., quantiles.shape[-1] // 2]
    return quantiles + ((1 - share) * (classic - median))[..., None]
