"""Windows that a model cannot answer as it does others: no logarithms, hardly any values. Clean ones pass untouched."""

import logging
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from .backtest import AT_ONCE, right_aligned
from .series import Series
from .smoothing import exponential_smoothing
from .windows import Cut, Stack

log = logging.getLogger("holdfast")

GAPPY = 0.3  # share of the context that may be missing before forecasts are bounded


def signs(
    examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, memory: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each window's newest known values hold a negative, a zero, a positive one; each [windows] bool."""
    found = np.zeros((3, len(which)), dtype=bool)
    for row, (place, origin) in enumerate(zip(which, origins, strict=True)):
        known = examples[place].values[max(0, origin - memory) : origin]
        found[:, row] = (known < 0).any(), (known == 0).any(), (known > 0).any()
    return found[0], found[1], found[2]


def without_logarithms(
    cut: Cut, examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, memory: int
) -> np.ndarray:
    """[windows] bool: those of a logarithmic model that have no logarithms. Says which series those are."""
    if not cut.logarithmic:
        return np.zeros(len(which), dtype=bool)
    negative, zero, positive = signs(examples, which, origins, memory)
    lost = negative | ~positive
    if lost.any():
        log.warning(
            "forecast: %s: this model sees logarithms, and these values are negative or all zero; "
            "exponential smoothing forecasts them", name_some(examples, which[lost]),
        )  # fmt: skip
    if (zero & ~lost).any():
        log.warning(
            "forecast: %s: zeros count as half the smallest positive value, for this model sees logarithms",
            name_some(examples, which[zero & ~lost]),
        )
    return lost


def name_some(examples: Sequence[Series], which: np.ndarray) -> str:
    """The first series of some, in words."""
    names = [examples[place].id for place in np.unique(which)]
    return f"series {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def smoothed(
    cut: Cut, examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, memory: int, levels: Sequence[float]
) -> np.ndarray:
    """Quantiles [windows, horizon, levels] of exponential smoothing, in values as they are."""
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    found = [np.zeros((0, cut.horizon, len(levels)))]
    for begin in range(0, len(which), AT_ONCE):
        past = right_aligned(examples, which[begin : begin + AT_ONCE], origins[begin : begin + AT_ONCE], memory)
        found.append(exponential_smoothing(past, cut.season, cut.horizon).quantiles(z))
    return np.concatenate(found)


def bounded(quantiles: np.ndarray, stack: Stack, which: np.ndarray, origins: np.ndarray, memory: int) -> np.ndarray:
    """Quantiles of seen values, those of gappy windows kept near what was seen: few values say little of the spread.

    Near: within three spreads of the context, or half the span of the window, of the smallest and the largest value.
    """
    places = origins[:, None] + np.arange(-stack.cut.context, 0)
    past = stack.at(which, places)
    gappy = (np.isnan(past) & (places >= 0)).sum(1) > GAPPY * (places >= 0).sum(1)
    if not gappy.any():
        return quantiles
    scale = stack.standing(past[gappy])[1]
    known = stack.at(which[gappy], origins[gappy, None] + np.arange(-memory, 0))
    there = ~np.isnan(known)
    low = np.where(there, known, np.inf).min(1, initial=np.inf)
    high = np.where(there, known, -np.inf).max(1, initial=-np.inf)
    beyond = np.maximum(3 * scale, 0.5 * np.where(there.any(1), high - low, 0.0))
    low = np.where(there.any(1), low - beyond, -np.inf)[:, None, None]
    high = np.where(there.any(1), high + beyond, np.inf)[:, None, None]
    out = quantiles.copy()
    out[gappy] = np.clip(quantiles[gappy], low, high)
    return out


def warn_of_plans(cut: Cut, examples: Sequence[Series]) -> None:
    """Log a warning that names the series whose future covariates nobody told."""
    if not cut.future:
        return
    lost = [place for place, one in enumerate(examples) if np.isnan(one.future[len(one.values) :]).all()]
    if lost:
        log.warning(
            "forecast: %s: no rows behind the last value tell %s; the mean of training is taken",
            name_some(examples, np.array(lost)), ", ".join(cut.future),
        )  # fmt: skip
