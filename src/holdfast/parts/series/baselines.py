"""The forecasts a network must beat: naive, seasonal naive, Naive2, theta, and exponential smoothing chosen by itself.

All of them for many series at once, in numpy. A history is [series, time], right-aligned: NaN where missing, and in
front of shorter series. Every history has at least one value. Forecasts are [series, horizon].
"""

import numpy as np

from .smoothing import simple_smoothing


def naive(history: np.ndarray, horizon: int) -> np.ndarray:
    """The last value, again and again."""
    return np.repeat(filled(history)[:, -1:], horizon, axis=1)


def seasonal_naive(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The last season, again and again; where it has a gap the one before, at last the last value."""
    known = np.repeat(filled(history)[:, -1:], season, axis=1)
    seasons = by_phase(history, season)  # [series, seasons, season]
    for number in range(seasons.shape[1]):  # from the oldest to the newest: the newest known stays
        known = np.where(np.isnan(seasons[:, number]), known, seasons[:, number])
    return np.tile(known, (1, -(-horizon // season)))[:, :horizon]


def naive2(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """M4's Naive2: naive on what is left after multiplicative seasons are taken out, where a test finds seasons."""
    indices = seasonal_indices(history, season)
    return naive(divide_out(history, indices), horizon) * ahead(indices, horizon)


def theta(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """Theta (Assimakopoulos & Nikolopoulos 2000) as M4 ran it: the mean of trend line and smoothed theta-2 line."""
    indices = seasonal_indices(history, season)
    adjusted = filled(divide_out(history, indices))
    known = ~np.isnan(adjusted)
    time = np.arange(history.shape[1]) - (history.shape[1] - 1.0)  # 0 at the last value
    count = known.sum(1)
    mean_time = np.where(known, time, 0.0).sum(1) / count
    mean_value = np.where(known, adjusted, 0.0).sum(1) / count
    across = np.where(known, time - mean_time[:, None], 0.0)
    spread = (across**2).sum(1)
    slope = np.divide(
        (across * np.where(known, adjusted - mean_value[:, None], 0.0)).sum(1),
        spread,
        out=np.zeros(len(history)),
        where=spread > 0,
    )
    line = mean_value[:, None] + slope[:, None] * (time - mean_time[:, None])
    level = simple_smoothing(2 * adjusted - line)  # [series]
    steps = np.arange(1, horizon + 1)
    trend = mean_value[:, None] + slope[:, None] * (steps - mean_time[:, None])
    return 0.5 * (trend + level[:, None]) * ahead(indices, horizon)


def filled(history: np.ndarray) -> np.ndarray:
    """Gaps filled with the value before them; what stands in front of a series stays NaN."""
    at = np.where(np.isnan(history), 0, np.arange(history.shape[1]))
    return np.take_along_axis(history, np.maximum.accumulate(at, axis=1), axis=1)


def by_phase(history: np.ndarray, season: int) -> np.ndarray:
    """[series, time] -> [series, seasons, season], the last column the last value; NaN in front."""
    missing = -history.shape[1] % season
    padded = np.pad(history, ((0, 0), (missing, 0)), constant_values=np.nan)
    return padded.reshape(len(history), -1, season)


def ahead(indices: np.ndarray, horizon: int) -> np.ndarray:
    """Seasonal indices [series, season] (the last column belongs to the last value) over the horizon."""
    return np.tile(indices, (1, -(-horizon // indices.shape[1])))[:, :horizon]


def divide_out(history: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The history without its multiplicative seasons."""
    return (by_phase(history, indices.shape[1]) / indices[:, None]).reshape(len(history), -1)[:, -history.shape[1] :]


def seasonal_indices(history: np.ndarray, season: int) -> np.ndarray:
    """Multiplicative seasonal indices [series, season], mean 1, by M4's rule; ones where its test finds no seasons."""
    ones = np.ones((len(history), season))
    if season == 1:
        return ones
    there = ~np.isnan(history)
    positive = np.all(np.where(there, history, 1.0) > 0, axis=1)
    if not positive.any():
        return ones
    full = filled(history)
    level = moving_average(full, season)
    ratios = np.divide(full, level, out=np.full(full.shape, np.nan), where=positive[:, None] & (level > 0))
    indices = mean_by_phase(ratios, season)
    usable = is_seasonal(full, season) & positive & np.isfinite(indices).all(1) & (indices > 0).all(1)
    return np.where(usable[:, None], indices / np.where(usable, indices.mean(1), 1.0)[:, None], 1.0)


def mean_by_phase(values: np.ndarray, season: int) -> np.ndarray:
    """The mean over all seasons, [series, time] -> [series, season]; NaN where there is none."""
    phases = by_phase(values, season)
    known = ~np.isnan(phases)
    count = known.sum(1)
    total = np.where(known, phases, 0.0).sum(1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def moving_average(values: np.ndarray, season: int) -> np.ndarray:
    """Centred over one season (2 x season where it is even), NaN at the ends: R's decompose."""
    kernel = np.ones(season) if season % 2 else np.concatenate([[0.5], np.ones(season - 1), [0.5]])
    out = np.full(values.shape, np.nan)
    width = len(kernel)
    if values.shape[1] >= width:
        half = width // 2
        windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=1)
        out[:, half : values.shape[1] - half] = windows @ (kernel / season)
    return out


def is_seasonal(values: np.ndarray, season: int) -> np.ndarray:
    """M4's test [series] bool: is the autocorrelation at one season significant at 90 %? Needs three seasons."""
    known = ~np.isnan(values)
    count = known.sum(1)
    mean = np.where(known, values, 0.0).sum(1) / count
    centred = np.where(known, values - mean[:, None], 0.0)
    power = (centred**2).sum(1)
    long_enough = (count >= 3 * season) & (power > 0)
    if values.shape[1] <= season or not long_enough.any():
        return np.zeros(len(values), dtype=bool)
    lags = [(centred[:, lag:] * centred[:, :-lag]).sum(1) for lag in range(1, season + 1)]
    acf = np.stack(lags, axis=1) / np.where(power > 0, power, 1.0)[:, None]
    limit = 1.645 * np.sqrt((1 + 2 * (acf[:, :-1] ** 2).sum(1)) / count)
    return long_enough & (np.abs(acf[:, -1]) > limit)
