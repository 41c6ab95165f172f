"""Backtests: forecasts made at past moments, and their scores beside the forecasts they must beat."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from ..errors import DataError
from . import accuracy, baselines
from .series import Series
from .smoothing import exponential_smoothing
from .windows import Cut, Stack

log = logging.getLogger("holdfast")

LONGEST = 3000  # newest values of a history that baselines look at
AT_ONCE = 1000  # histories in memory
COMPARED = ("MASE", "sMAPE", "pinball")  # lower is better, and every row may have them


@dataclass(frozen=True)
class Asked:
    """What came true in some windows, in seen values."""

    target: np.ndarray  # [windows, horizon], NaN where missing
    scale: np.ndarray  # [windows] of each window

    @classmethod
    def of(cls, stack: Stack, which: np.ndarray, origins: np.ndarray) -> Self:
        """The windows of series ``which`` in which ``origins`` values are known."""
        target = stack.at(which, origins[:, None] + np.arange(stack.cut.horizon))
        scale = stack.standing(stack.at(which, origins[:, None] + np.arange(-stack.cut.context, 0)))[1]
        return cls(target, scale)


def last_origins(examples: Sequence[Series], cut: Cut, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation windows: (series, origin) [windows], in the part of each series that is to be scored."""
    which: list[int] = []
    origins: list[int] = []
    each = max(1, most // max(1, len(examples)))
    for place, one in enumerate(examples):
        last = len(one.values) - cut.horizon
        first = max(1, one.origin or min(cut.context, last))
        if last >= first:
            chosen = np.unique(np.linspace(last, first, min(each, last - first + 1)).astype(np.int64))
            which += [place] * len(chosen)
            origins += chosen.tolist()
    if not which:
        raise DataError("no validation series is long enough", hint=f"the horizon is {cut.horizon} steps")
    return np.array(which), np.array(origins)


def random_origins(stack: Stack, size: int, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training windows of one epoch: (series, origin) [windows], at most ``most`` batches of ``size``.

    A series is drawn by the square root of its number of windows: long ones teach more, but do not drown short ones.
    """
    cut = stack.cut
    most_ahead = stack.lengths - max(1, cut.horizon // 3)  # the last windows have a part of their future only
    low = np.minimum(np.maximum(max(cut.lags, default=1), cut.context // 4), np.maximum(most_ahead, 1))
    count = np.where(stack.lengths >= 2, np.maximum(np.minimum(most_ahead, stack.lengths - 1) - low + 1, 1), 0)
    low = np.minimum(low, np.maximum(stack.lengths - 1, 1))
    share = np.sqrt(count)
    total = min(max(int(count.sum()), size), most * size)
    which = rng.choice(len(count), size=total, p=share / share.sum())
    return which, low[which] + (rng.random(total) * count[which]).astype(np.int64)


def rolling_origins(
    examples: Sequence[Series], horizon: int, windows: int, stride: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Test windows: the last ``windows`` origins of each series, ``stride`` apart, each with a whole horizon ahead."""
    stride = stride or horizon
    which: list[int] = []
    origins: list[int] = []
    for place, one in enumerate(examples):
        for number in range(windows):
            origin = len(one.values) - horizon - number * stride
            if origin >= max(1, one.origin):
                which.append(place)
                origins.append(origin)
    if not which:
        longest = max(len(one.values) for one in examples)
        raise DataError(
            f"no series is long enough to be scored: the longest has {longest} values, the horizon is {horizon}",
            hint="hand in the history together with the values that came after it",
        )
    return np.array(which), np.array(origins)


def apart(which: np.ndarray, origins: np.ndarray, horizon: int) -> int:
    """How many of the windows (series, origin) do not overlap, about: the whole horizons in each series' span."""
    _, row = np.unique(which, return_inverse=True)
    first, last = np.full(row.max() + 1, origins.max()), np.zeros(row.max() + 1, dtype=origins.dtype)
    np.minimum.at(first, row, origins)
    np.maximum.at(last, row, origins)
    return int(((last - first) // horizon + 1).sum())


def right_aligned(examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, longest: int) -> np.ndarray:
    """Histories [windows, time] of values, the newest last, NaN in front; at most ``longest`` values."""
    width = min(int(origins.max()), longest)
    out = np.full((len(which), width), np.nan)
    for row, place, origin in zip(out, which, origins, strict=True):
        known = examples[place].values[max(0, origin - width) : origin]
        row[width - len(known) :] = known
    return out


def targets(examples: Sequence[Series], which: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """What came true, [windows, horizon]."""
    return np.stack([examples[p].values[o : o + horizon] for p, o in zip(which, origins, strict=True)])


def scores(
    examples: Sequence[Series],
    which: np.ndarray,
    origins: np.ndarray,
    quantiles: np.ndarray,
    levels: tuple[float, ...],
    season: int,
) -> dict[str, dict[str, float]]:
    """Scores of quantiles [windows, horizon, levels] and of the baselines at the same moments."""
    horizon = quantiles.shape[1]
    target = targets(examples, which, origins, horizon)
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "seasonal naive" if season > 1 else "naive": lambda past: naive_quantiles(past, season, horizon, z),
        "theta": lambda past: baselines.theta(past, season, horizon)[..., None],
        "exponential smoothing": lambda past: exponential_smoothing(past, season, horizon).quantiles(z),
        "naive2": lambda past: baselines.naive2(past, season, horizon)[..., None],
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    scale: list[np.ndarray] = []
    for begin in range(0, len(which), AT_ONCE):
        at = slice(begin, begin + AT_ONCE)
        past = right_aligned(examples, which[at], origins[at], LONGEST)
        scale.append(accuracy.seasonal_scale(past, season))
        for name, method in methods.items():
            found[name].append(method(past))
    scales = np.concatenate(scale)
    table = {"holdfast": quantiles} | {name: np.concatenate(parts) for name, parts in found.items()}
    rows = {name: row_of(target, forecast, levels, scales) for name, forecast in table.items()}
    naive2 = rows["naive2"]
    for row in rows.values():
        row["OWA"] = accuracy.owa(row["sMAPE"], row["MASE"], naive2["sMAPE"], naive2["MASE"])
    return rows


def row_of(target: np.ndarray, forecast: np.ndarray, levels: tuple[float, ...], scale: np.ndarray) -> dict[str, float]:
    """Scores of quantiles [windows, horizon, levels], or of medians alone [windows, horizon, 1]."""
    median = forecast[..., forecast.shape[-1] // 2]
    row = {"MASE": accuracy.mase(target, median, scale), "sMAPE": accuracy.smape(target, median)}
    if forecast.shape[-1] == len(levels):
        row["pinball"] = accuracy.scaled_pinball(target, forecast, levels, scale)
        row["coverage 80"] = accuracy.coverage(target, forecast[..., 1], forecast[..., -2])
        row["coverage 95"] = accuracy.coverage(target, forecast[..., 0], forecast[..., -1])
    return row


def naive_quantiles(past: np.ndarray, season: int, horizon: int, z: np.ndarray) -> np.ndarray:
    """Seasonal naive with normal intervals that grow with every season (Hyndman & Athanasopoulos, FPP3, 5.5)."""
    median = baselines.seasonal_naive(past, season, horizon)
    change = past[:, season:] - past[:, :-season]
    spread = np.sqrt(np.nan_to_num(accuracy.mean_where_known(change**2)))[:, None]
    seasons = np.arange(horizon) // season + 1
    return median[..., None] + (spread * np.sqrt(seasons))[..., None] * z


def say_plainly(table: dict[str, dict[str, float]]) -> None:
    """Warn where a baseline is better than the model."""
    model = table["holdfast"]
    for measure in COMPARED:
        others = {name: row[measure] for name, row in table.items() if name != "holdfast" and measure in row}
        best = min(others, key=lambda name: others[name], default=None)
        if best is not None and model[measure] >= others[best]:
            log.warning(
                "forecast: %s is as good as this model or better here (%s %.3f against %.3f): "
                "use it, or train longer or on more series",
                best, measure, others[best], model[measure],
            )  # fmt: skip
