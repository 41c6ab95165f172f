"""How good a forecast is: the M4 competition's measures, as its organisers define them, and those of intervals.

Makridakis, Spiliotis & Assimakopoulos, "The M4 Competition", International Journal of Forecasting 36 (2020) 54-74.
Every array is [series, time]; NaN in the target is not scored, and a series without a target does not count.
"""

from collections.abc import Sequence

import numpy as np


def smape(target: np.ndarray, forecast: np.ndarray) -> float:
    """Symmetric mean absolute percentage error, 0..200, averaged over steps, then over series."""
    size = np.abs(target) + np.abs(forecast)
    error = np.abs(target - forecast)
    return per_series(200 * np.divide(error, size, out=error * 0.0, where=size > 0))


def mase(target: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> float:
    """Mean absolute scaled error; scale [series] is seasonal_scale of the history. Series of scale 0 do not count."""
    scale = np.where(scale > 0, scale, np.nan)[:, None]
    return per_series(np.abs(target - forecast) / scale)


def owa(smape_: float, mase_: float, naive2_smape: float, naive2_mase: float) -> float:
    """Overall weighted average: the mean of sMAPE and MASE, each in shares of Naive2's."""
    return 0.5 * (smape_ / naive2_smape + mase_ / naive2_mase) if naive2_smape > 0 and naive2_mase > 0 else np.nan


def seasonal_scale(history: np.ndarray, season: int) -> np.ndarray:
    """MASE's denominator [series]: the mean absolute change over one season in the history [series, time], NaN = none.

    Histories shorter than a season are measured by their changes from step to step.
    """
    seasonal = mean_where_known(np.abs(history[:, season:] - history[:, :-season]))
    if season == 1:
        return seasonal
    return np.where(np.isnan(seasonal), mean_where_known(np.abs(np.diff(history, axis=1))), seasonal)


def coverage(target: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Share of the known targets that lie within their interval, ends included."""
    known = ~np.isnan(target)
    return float(((target >= lower) & (target <= upper))[known].mean()) if known.any() else np.nan


def scaled_pinball(target: np.ndarray, quantiles: np.ndarray, levels: Sequence[float], scale: np.ndarray) -> float:
    """Mean pinball loss of quantiles [series, time, levels] over the levels, in units of MASE's scale [series].

    Twice the usual one, so that a forecast that is all median has its MASE.
    """
    error = target[..., None] - quantiles
    level = np.asarray(levels)
    loss = 2 * np.maximum(level * error, (level - 1) * error).mean(-1)
    return per_series(loss / np.where(scale > 0, scale, np.nan)[:, None])


def per_series(errors: np.ndarray) -> float:
    """The mean over series of each one's mean over its known steps; NaN where nothing is known."""
    means = mean_where_known(errors)
    means = means[~np.isnan(means)]
    return float(means.mean()) if means.size else np.nan


def mean_where_known(values: np.ndarray) -> np.ndarray:
    """The mean over time of what is not NaN, [series, time] -> [series]; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
