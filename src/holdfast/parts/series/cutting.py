"""How series are to be cut into windows: chosen from the training series where the user does not say."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import DataError
from .frequency import Frequency
from .series import Series
from .windows import Cut, Stack

log = logging.getLogger("holdfast")

# Season lengths tried on series whose stamps tell nothing.
GUESSES = (4, 5, 7, 12, 13, 24, 30, 48, 52, 60, 96, 144, 168, 288, 336, 365, 672)
MOST_NAMES = 5000  # series that get a place of their own; beyond that all share one, as unseen series do
MOST_WORDS = 64  # values of one static covariate that get an input of their own
PROBES = 8  # moments per series at which first guesses are compared


@dataclass(frozen=True)
class Wish:
    """What the user asks for; None where it is to be chosen."""

    horizon: int | None
    context: int | None
    segment: int | None
    season: int | None
    seasons: tuple[int, ...]  # () where they are to be found
    transform: Literal["auto", "log", "none"]
    error: Literal["season", "series"]
    past: tuple[str, ...]
    future: tuple[str, ...]
    static: tuple[str, ...]


def choose_cut(series: Sequence[Series], wish: Wish) -> Cut:
    """The cut for these training series. Raises DataError where frequencies differ or nothing is long enough."""
    frequency = common_frequency(series)
    lengths = np.array([len(one.values) for one in series])
    horizon = wish.horizon or max(1, min(frequency.horizon, int(lengths.max()) // 3))
    if lengths.max() < 2:
        raise DataError("no series has two values", hint="forecasting learns from the past of a series")
    logarithmic, floor = choose_scale(series, wish.transform)
    means, spreads = covariate_scales(series, len(wish.past), len(wish.future))
    numbers, number_scales, words = static_scales(series, wish.static)
    names = tuple(one.id for one in series) if len(series) <= MOST_NAMES else ()
    plain = Cut(
        frequency, wish.season or 1, wish.error, horizon, horizon, horizon, (), (0.0,), logarithmic, floor,
        wish.past, wish.future, means, spreads, numbers, number_scales, words, names,
    )  # fmt: skip
    lags, trust = choose_lags(plain, series, wish.season, wish.seasons)
    lost = sorted({*wish.seasons, wish.season or 1} - {*lags, 1})
    if lost:
        log.warning(
            "forecast: no series has two seasons of %s steps (the longest has %d values): such a season is not used",
            " and ".join(map(str, lost)), lengths.max(),
        )  # fmt: skip
    season = wish.season or min(lags, default=frequency_season(frequency))
    segment = wish.segment or choose_segment(horizon, season)
    context = wish.context or min(usual_context(lags, horizon), max(int(np.quantile(lengths, 0.9)), 1))
    context = -(-context // segment) * segment
    log.info(
        "forecast: %d steps ahead from %d, in segments of %d, %s, seasons %s",
        horizon, context, segment, "logarithms" if logarithmic else "plain values", lags or "none",
    )  # fmt: skip
    return replace(plain, season=season, context=context, segment=segment, lags=lags, trust=trust)


def usual_context(lags: tuple[int, ...], horizon: int) -> int:
    """Steps of history to read: four of the longest season, two of a long one, or eight horizons without seasons."""
    longest = max(lags, default=0)
    return max((4 if longest < 100 else 2) * longest, 2 * horizon) if lags else max(8 * horizon, 64)


def common_frequency(series: Sequence[Series]) -> Frequency:
    """The one frequency of all series."""
    first = series[0]
    for one in series:
        if one.frequency != first.frequency:
            raise DataError(
                f"series {first.id} is {first.frequency.name}, series {one.id} is {one.frequency.name}",
                hint="train one model per frequency",
            )
    return first.frequency


def choose_scale(series: Sequence[Series], transform: str) -> tuple[bool, float]:
    """Whether to see logarithms, and half the smallest positive value."""
    smallest = np.inf
    negative, tiny, count = False, 0, 0
    for one in series:
        known = one.values[one.observed]
        negative |= bool((known <= 0).any())
        tiny, count = tiny + int((known < 0.01 * np.median(known)).sum()), count + len(known)
        positive = known[known > 0]
        smallest = min(smallest, positive.min()) if positive.size else smallest
    if transform == "log" and negative:
        log.warning(
            "forecast: some values are not positive; as logarithms they count as half the smallest positive one"
        )
    # values far below their series' median would weigh more than all others as logarithms
    chosen = transform == "log" or (transform == "auto" and not negative and tiny <= 0.01 * count)
    return chosen, float(smallest / 2) if np.isfinite(smallest) else 1.0


def covariate_scales(series: Sequence[Series], pasts: int, futures: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread [past + future] of the covariates; 0 and 1 where one is constant or empty."""
    means, spreads = np.zeros(pasts + futures), np.ones(pasts + futures)
    for column in range(pasts + futures):
        where = [one.past[:, column] if column < pasts else one.future[:, column - pasts] for one in series]
        known = np.concatenate(where)
        known = known[~np.isnan(known)]
        if known.size:
            means[column], spreads[column] = known.mean(), known.std() or 1.0
    return means, spreads


def static_scales(
    series: Sequence[Series], static: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray, tuple[tuple[str, str], ...]]:
    """Static covariates: names of the numeric ones, their mean and spread, and the words of the others."""
    numbers: list[str] = []
    scales: list[tuple[float, float]] = []
    words: list[tuple[str, str]] = []
    for name in static:
        values = [one.static.get(name, "?") for one in series]
        if all(isinstance(value, float) for value in values):
            known = np.array([value for value in values if isinstance(value, float) and np.isfinite(value)])
            numbers.append(name)
            scales.append((known.mean(), known.std() or 1.0) if known.size else (0.0, 1.0))
        else:
            texts = sorted({str(value) for value in values})
            if len(texts) > MOST_WORDS:
                log.warning("forecast: %s has %d values; it is not used", name, len(texts))
                continue
            words += [(name, text) for text in texts]
    return tuple(numbers), np.array(scales).reshape(-1, 2), tuple(words)


def choose_lags(
    plain: Cut, series: Sequence[Series], season: int | None, wanted: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Season lengths, shortest last: those wanted or usual, or those that show; and trust in each first guess."""
    longest = max(len(one.values) for one in series)
    known = wanted or plain.frequency.seasons
    tried = sorted((lag for lag in {*(known or GUESSES), season or 1} - {1} if 2 * lag < longest), reverse=True)
    errors = guess_errors(replace(plain, lags=tuple(tried), trust=(0.0,) * (1 + len(tried))), series)
    kept = list(range(len(tried))) if known else seasons_among(tried, errors)
    kept += [place for place, lag in enumerate(tried) if lag == season and place not in kept]
    errors = errors[[0, *(1 + place for place in kept)]]
    trust = [float(np.clip(4 * np.log(errors.min() / error), -4, 0)) for error in errors]
    return tuple(tried[place] for place in kept), tuple(trust)


def seasons_among(tried: Sequence[int], errors: np.ndarray) -> list[int]:
    """Places of true seasons among the lags tried, longest first in both; errors [1 + lags], the last value's first.

    The best lag; the best of its divisors (a day in a week); and each further multiple of it that is better than the
    multiples beside it: errors grow with the lag unless a longer season is there.
    """
    lags = list(tried)
    error = dict(zip(lags, errors[1:], strict=True))
    best = shortest_good(lags, error)
    if best is None:
        return []
    kept = [best]
    within = shortest_good([lag for lag in lags if best % lag == 0 and lag < best], error)
    multiples = [lag for lag in reversed(lags) if lag % best == 0]  # shortest first
    for before, lag, after in zip(multiples[1:], multiples[2:], [*multiples[3:], None], strict=False):
        dips = error[lag] < 0.98 * error[before] and (after is None or error[lag] < error[after])
        if dips and not any(lag % one == 0 for one in kept[1:]):
            kept.append(lag)
    kept += [] if within is None else [within]
    return [lags.index(lag) for lag in sorted(kept, reverse=True)]


def shortest_good(lags: Sequence[int], error: Mapping[int, float]) -> int | None:
    """The shortest lag about as good as the best; None where even that is hardly better than the last value (1)."""
    least = min((error[lag] for lag in lags), default=1.0)
    return min(lag for lag in lags if error[lag] <= 1.05 * least) if least < 0.9 else None


def guess_errors(cut: Cut, series: Sequence[Series]) -> np.ndarray:
    """[bases] mean absolute error of each first guess, in shares of the last value's."""
    stack = Stack(cut, series)
    which = np.repeat(np.arange(len(series)), PROBES)
    share = np.tile(np.linspace(0.5, 1.0, PROBES), len(series))
    origins = np.maximum(1, ((stack.lengths[which] - cut.horizon) * share).astype(np.int64))
    forth = origins[:, None] + np.arange(cut.segments[1] * cut.segment)
    error = np.abs(stack.guesses(which, origins) - stack.at(which, forth)[..., None])  # [probes, steps, bases]
    known = ~np.isnan(error)
    sums = np.where(known, error, 0.0).sum(1)  # [probes, bases]
    sums = sums[sums[:, 0] > 0]
    return np.maximum((sums / sums[:, :1]).mean(0), 1e-3) if len(sums) else np.ones(cut.bases)


def frequency_season(frequency: Frequency) -> int:
    """The shortest season of a frequency, 1 where it has none."""
    return min(frequency.seasons, default=1)


def choose_segment(horizon: int, season: int) -> int:
    """A divisor of the season that fills the horizon with little waste; without a season a part of the horizon."""
    fitting = [size for size in range(4, min(24, horizon) + 1) if season % size == 0]
    if not fitting:
        return max(1, min(horizon, 8) if horizon < 12 else -(-horizon // (horizon // 6)))
    return min(fitting, key=lambda size: (-(-horizon // size) * size - horizon, -size))
