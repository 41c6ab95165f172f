"""Exponential smoothing, chosen by itself: additive error, trend none or damped, seasons none or additive.

The model family of Hyndman, Koehler, Ord & Snyder, "Forecasting with Exponential Smoothing" (2008). In place of an
optimiser per series, a grid of smoothing parameters for all series at once; the corrected Akaike criterion chooses.
Positive series are smoothed as logarithms, which makes trend and seasons multiplicative.
A history is [series, time], right-aligned, NaN where missing and in front.
"""

import itertools
from dataclasses import dataclass

import numpy as np

ALPHAS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.99)  # level
BETAS = (0.02, 0.1, 0.3)  # trend, as a share of alpha
PHIS = (0.85, 0.95, 1.0)  # damping
GAMMAS = (0.0, 0.05, 0.15, 0.4)  # seasons, as a share of 1 - alpha
CELLS = 3_000_000  # of seasonal state at a time: bounds memory


@dataclass(frozen=True)
class Smoothed:
    """Forecasts and how unsure they are."""

    median: np.ndarray  # [series, horizon]
    spread: np.ndarray  # [series, horizon] standard deviation, in the units that were smoothed
    logarithmic: np.ndarray  # [series] bool: those units are logarithms
    ceiling: np.ndarray  # [series] ten times the highest value seen: beyond it only the exponential speaks

    def quantiles(self, z: np.ndarray) -> np.ndarray:
        """[series, horizon, levels] for standard normal quantiles z [levels]."""
        steps = self.spread[..., None] * z
        logs = np.log(np.maximum(self.median, np.finfo(float).tiny))[..., None] + steps
        bounded = np.minimum(np.exp(np.minimum(logs, 700.0)), self.ceiling[:, None, None])
        return np.where(self.logarithmic[:, None, None], bounded, self.median[..., None] + steps)


def exponential_smoothing(history: np.ndarray, season: int, horizon: int) -> Smoothed:
    """The best of the family for each series."""
    positive = np.all(np.where(np.isnan(history), 1.0, history) > 0, axis=1)
    scaled = np.where(positive[:, None], np.log(np.where(positive[:, None], history, 1.0)), history)
    grid = max(len(ALPHAS) * len(BETAS) * len(PHIS) * len(GAMMAS), 1)
    chunk = max(1, CELLS // (grid * max(season, 1)))
    parts = [smooth(scaled[at : at + chunk], season, horizon) for at in range(0, len(history), chunk)]
    median, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
    ceiling = 10 * np.max(np.where(np.isnan(history), -np.inf, history), axis=1)
    bounded = np.minimum(np.exp(np.minimum(median, 700.0)), ceiling[:, None])
    return Smoothed(np.where(positive[:, None], bounded, median), spread, positive, ceiling)


def smooth(history: np.ndarray, season: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Forecast and standard deviation [series, horizon] of the model with the lowest criterion, in the units given."""
    best = np.full(len(history), np.inf)
    median, spread = np.zeros((len(history), horizon)), np.zeros((len(history), horizon))
    shapes = itertools.product((False, True), (False, True) if season > 1 else (False,))
    for trend, seasonal in shapes:
        criterion, forecast, deviation = fit_grid(history, season, horizon, trend=trend, seasonal=seasonal)
        better = criterion < best
        best = np.where(better, criterion, best)
        median = np.where(better[:, None], forecast, median)
        spread = np.where(better[:, None], deviation, spread)
    return median, spread


def fit_grid(
    history: np.ndarray, season: int, horizon: int, *, trend: bool, seasonal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One shape of model: its best parameters' criterion [series], forecast and deviation [series, horizon]."""
    axes = (ALPHAS, BETAS if trend else (0.0,), PHIS if trend else (1.0,), GAMMAS if seasonal else (0.0,))
    alpha, beta, phi, gamma = (np.array(column) for column in zip(*itertools.product(*axes), strict=True))  # [grid]
    period = season if seasonal else 1
    level, slope, seasons, first = begin(history, period, trend=trend)
    count = (~np.isnan(history)).sum(1)
    ones = np.ones((1, len(alpha)))
    level, slope = level[:, None] * ones, slope[:, None] * ones  # [series, grid]
    seasons = np.repeat(seasons[:, None], len(alpha), axis=1)  # [series, grid, period]
    squares = np.zeros(level.shape)
    total = history.shape[1]
    for t in range(total):
        runs = (t >= first)[:, None]
        phase = (t - total) % period  # the last value has the last phase
        predicted = level + phi * slope + seasons[..., phase]
        error = np.where(runs & ~np.isnan(history[:, t, None]), history[:, t, None] - predicted, 0.0)
        squares += error * error
        level = np.where(runs, level + phi * slope + alpha * error, level)
        slope = np.where(runs, phi * slope + alpha * beta * error, slope)
        seasons[..., phase] += gamma * (1 - alpha) * error
    parameters = 2 + 3 * trend + (1 + period) * seasonal
    free = count - parameters - 1
    criterion = count * np.log(np.maximum(squares.min(1) / count, 1e-300)) + 2 * parameters * count / np.maximum(
        free, 1
    )
    criterion = np.where((free > 0) & ((not seasonal) | (count >= 2 * season)), criterion, np.inf)
    criterion = criterion if trend or seasonal else np.where(free > 0, criterion, 1e300)  # the last resort
    rows, at = np.arange(len(history)), squares.argmin(1)
    damping = np.cumsum(phi[at][:, None] ** np.arange(1, horizon + 1), axis=1)  # [series, horizon]
    forecast = level[rows, at][:, None] + damping * slope[rows, at][:, None]
    forecast += seasons[rows, at][:, np.arange(horizon) % period]
    return criterion, forecast, deviations(squares[rows, at], count, alpha[at], beta[at], phi[at], horizon)


def deviations(
    squares: np.ndarray, count: np.ndarray, alpha: np.ndarray, beta: np.ndarray, phi: np.ndarray, horizon: int
) -> np.ndarray:
    """Standard deviation [series, horizon] of the forecasts of a damped trend; the seasons' share is left out."""
    sigma = np.sqrt(squares / np.maximum(count - 1, 1))
    steps = np.cumsum(phi[:, None] ** np.arange(1, horizon), axis=1)
    weights = alpha[:, None] * (1 + beta[:, None] * steps)  # of the shock j steps ago, j = 1 .. horizon - 1
    variance = 1 + np.concatenate([np.zeros((len(sigma), 1)), np.cumsum(weights**2, axis=1)], axis=1)
    return sigma[:, None] * np.sqrt(variance)


def begin(history: np.ndarray, period: int, *, trend: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Level and slope [series] before the first value, seasons [series, period], place of the first value [series]."""
    known = ~np.isnan(history)
    first = known.argmax(1)
    span = max(period, 4)
    ages = np.arange(history.shape[1]) - first[:, None]
    early = masked_mean(history, known & (ages < span))
    later = masked_mean(history, known & (ages >= span) & (ages < 2 * span))
    slope = np.where(np.isnan(later), 0.0, (later - early) / span) if trend else np.zeros(len(history))
    level = early - slope * (span + 1) / 2
    if period == 1:
        return level, slope, np.zeros((len(history), 1)), first
    missing = -history.shape[1] % period
    rest = (
        history
        - masked_mean(history, known & (ages < 3 * period))[:, None]
        - np.nan_to_num(slope)[:, None] * (ages - 1.5 * period)
    )
    rest = np.where(known & (ages < 3 * period), rest, np.nan)
    phases = np.pad(rest, ((0, 0), (missing, 0)), constant_values=np.nan).reshape(len(history), -1, period)
    there = ~np.isnan(phases)
    seasons = np.where(there, phases, 0.0).sum(1) / np.maximum(there.sum(1), 1)
    return level, slope, seasons - seasons.mean(1, keepdims=True), first


def masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over time where the mask holds, [series]; NaN where it never does."""
    count = mask.sum(1)
    total = np.where(mask, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def simple_smoothing(values: np.ndarray) -> np.ndarray:
    """The last level [series] of simple exponential smoothing, alpha by least squares over a fine grid."""
    alpha = np.linspace(0.01, 0.99, 50)
    known = ~np.isnan(values)
    first = known.argmax(1)
    start = np.take_along_axis(values, first[:, None], axis=1)  # [series, 1]
    level = np.repeat(start, len(alpha), axis=1)
    squares = np.zeros(level.shape)
    for t in range(values.shape[1]):
        error = np.where(known[:, t, None] & (t > first)[:, None], values[:, t, None] - level, 0.0)
        squares += error * error
        level = level + alpha * error
    return level[np.arange(len(values)), squares.argmin(1)]
