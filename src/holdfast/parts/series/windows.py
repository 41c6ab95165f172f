"""Windows: what a forecasting network sees of a series at one moment, and what it is to say about the steps ahead."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .calendar import calendar, calendar_width
from .frequency import Frequency
from .series import Series

BACK = 3  # seasons looked back through for a value, where the last season has a gap


@dataclass(frozen=True)
class Cut:
    """How windows are cut from series: facts found in the training data."""

    frequency: Frequency
    season: int  # steps per season, for baselines and MASE; 1 for none
    error: Literal[
        "season", "series"
    ]  # training counts errors in units of usual seasonal changes, or of the series' spread
    horizon: int  # steps ahead
    context: int  # steps of history the network reads, a multiple of segment
    segment: int  # steps read, and written, at a time
    lags: tuple[int, ...]  # season lengths: the last season repeated is a first guess of the future
    trust: tuple[float, ...]  # [bases] logits of how good each first guess was in training, the last value's first
    logarithmic: bool  # values are positive and are seen as logarithms
    floor: float  # half the smallest positive training value: what a logarithm sees in place of less
    past: tuple[str, ...]
    future: tuple[str, ...]
    means: np.ndarray  # [past + future] of the covariates in training
    spreads: np.ndarray  # [past + future]
    numbers: tuple[str, ...]  # static covariates that are numbers
    number_scales: np.ndarray  # [numbers, 2] mean and spread
    words: tuple[tuple[str, str], ...]  # (static covariate, value) pairs known, one input each
    ids: tuple[str, ...]  # series known by name; all others share one place

    @property
    def segments(self) -> tuple[int, int]:
        """Segments read, segments written."""
        return self.context // self.segment, -(-self.horizon // self.segment)

    @property
    def bases(self) -> int:
        """First guesses of the future: the last value, and the last season of each lag."""
        return 1 + len(self.lags)

    def seen(self, values: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """Values as the network sees them, before they are scaled: logarithms of no less than floor, or as they are."""
        return np.log(np.maximum(values, floor)) if self.logarithmic else values

    def floor_of(self, values: np.ndarray) -> float:
        """What a logarithm sees in place of less: never more than half a series' own smallest positive value."""
        positive = values[values > 0] if self.logarithmic else values[:0]
        return min(self.floor, float(positive.min()) / 2) if positive.size else self.floor

    def unseen(self, values: np.ndarray) -> np.ndarray:
        """The inverse of seen."""
        return np.exp(np.clip(values, -700.0, 700.0)) if self.logarithmic else values


@dataclass(frozen=True)
class Windows:
    """A batch of windows. ``steps`` is the horizon rounded up to whole segments."""

    history: Tensor  # [batch, context, 2 + past + future]: scaled value (0 where missing), observed 0/1, covariates
    calendar: Tensor  # [batch, segments read + segments written, features] at each segment's first step
    ahead: Tensor  # [batch, steps, future covariates]
    bases: Tensor  # [batch, steps, bases] scaled first guesses
    static: Tensor  # [batch, static]
    series: Tensor  # [batch] int64: 0 for a series not known by name
    target: Tensor  # [batch, steps] scaled, 0 where missing
    weight: Tensor  # [batch, steps] of an error in the loss; 0 where the target is missing or past the horizon
    centre: np.ndarray  # [batch] float64: seen value = centre + scale * scaled value
    scale: np.ndarray  # [batch] float64

    def rows(self, which: slice) -> "Windows":
        """Some of the windows."""
        return Windows(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))


class Stack:
    """Many series in flat arrays, from which windows are gathered."""

    def __init__(self, cut: Cut, series: Sequence[Series]) -> None:
        self.cut = cut
        steps = cut.segments[1] * cut.segment
        self.lengths = np.array([len(one.values) for one in series])
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        floors = np.array([cut.floor_of(one.values) for one in series])
        self.values = cut.seen(np.concatenate([one.values for one in series]), np.repeat(floors, self.lengths))
        spreads = [np.nanstd(cut.seen(one.values, floor)) for one, floor in zip(series, floors, strict=True)]
        self.spreads = np.maximum(np.array(spreads), 1e-9)
        self.past = standardised(np.concatenate([sized(one.past, len(one.values), cut.past) for one in series]), cut, 0)
        known = [sized(one.future, len(one.values) + steps, cut.future) for one in series]
        self.future = standardised(np.concatenate(known), cut, len(cut.past))
        stamps = [one.stamps(0, len(one.values) + steps) for one in series] if calendar_width(cut.frequency) else []
        empty = np.zeros((0, calendar_width(cut.frequency)), dtype=np.float32)
        self.calendar = np.concatenate([calendar(one, cut.frequency) for one in stamps]) if stamps else empty
        self.longer = np.concatenate([[0], np.cumsum(self.lengths + steps)])  # offsets where the future has room
        places = {name: place + 1 for place, name in enumerate(cut.ids)}
        self.names = np.array([places.get(one.id, 0) for one in series])
        self.static = static_inputs(cut, series)

    def windows(self, which: np.ndarray, origins: np.ndarray) -> Windows:
        """The windows of series ``which`` [batch] in which ``origins`` [batch] values are known."""
        cut = self.cut
        steps = cut.segments[1] * cut.segment
        back = origins[:, None] + np.arange(-cut.context, 0)  # [batch, context]
        past = self.at(which, back)
        centre, scale = self.standing(past)
        seen = ~np.isnan(past)
        history = np.where(seen, (past - centre[:, None]) / scale[:, None], 0.0)
        there = back >= 0
        covariates = np.concatenate([self.past_at(which, back, there), self.future_at(which, back, there)], axis=-1)
        forth = origins[:, None] + np.arange(steps)  # [batch, steps]
        target = self.at(which, forth)
        target[:, cut.horizon :] = np.nan
        known = ~np.isnan(target)
        bases = (self.guesses(which, origins) - centre[:, None, None]) / scale[:, None, None]
        return Windows(
            history=tensor(np.concatenate([history[..., None], seen[..., None], covariates], axis=-1)),
            calendar=tensor(self.calendar_at(which, origins)),
            ahead=tensor(self.future_at(which, forth, np.ones_like(forth, dtype=bool))),
            bases=tensor(bases),
            static=tensor(self.static[which]),
            series=torch.from_numpy(self.names[which]),
            target=tensor(np.where(known, (target - centre[:, None]) / scale[:, None], 0.0)),
            weight=tensor(known * self.emphasis(which, past, scale)[:, None]),
            centre=centre,
            scale=scale,
        )

    def emphasis(self, which: np.ndarray, past: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """How much an error in units of the window's scale weighs [windows]: it is counted in units of cut.error."""
        if self.cut.error == "series":
            unit = self.spreads[which]
        else:  # the usual change over a season: MASE's unit, of this window
            season = min(self.cut.season, past.shape[1] - 1)
            unit = mean_and_spread(np.abs(past[:, season:] - past[:, :-season]))[0]
        unit = np.where(np.isnan(unit) | (unit <= 0), scale, unit)
        return np.clip(scale / unit, 0.05, 5.0)  # no window drowns the others

    def at(self, which: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Seen values [batch, n] at places [batch, n] of each series; NaN outside it."""
        inside = (places >= 0) & (places < self.lengths[which, None])
        return np.where(inside, self.values[np.where(inside, self.offsets[which, None] + places, 0)], np.nan)

    def standing(self, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre (mean over the last season) and scale (spread over the context) of windows [batch, context]."""
        season = max(self.cut.lags, default=1)
        whole = mean_and_spread(past)
        recent = mean_and_spread(past[:, -season:])[0]
        centre = np.where(np.isnan(recent), whole[0], recent)
        centre = np.where(np.isnan(centre), 0.0, centre)
        least = 1e-4 if self.cut.logarithmic else 1e-4 * np.maximum(np.abs(centre), 1e-4)
        return centre, np.maximum(np.where(np.isnan(whole[1]), 0.0, whole[1]), least)

    def guesses(self, which: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """First guesses of the future [batch, steps, bases], seen values: the last value, the last seasons repeated."""
        steps = self.cut.segments[1] * self.cut.segment
        recent = self.at(which, origins[:, None] + np.arange(-max(self.cut.context, 1), 0))
        newest = np.where(np.isnan(recent), -1, np.arange(recent.shape[1])).max(1)  # place of the last known value
        last = np.take_along_axis(recent, np.maximum(newest, 0)[:, None], axis=1)
        last = np.where(np.isnan(last), 0.0, last) * np.ones((1, steps))
        found = [last]
        for lag in self.cut.lags:
            phase = np.arange(steps) % lag
            guess = np.full(last.shape, np.nan)
            for season in range(1, BACK + 1):
                guess = np.where(np.isnan(guess), self.at(which, origins[:, None] + phase - season * lag), guess)
            found.append(np.where(np.isnan(guess), last, guess))
        return np.stack(found, axis=-1)

    def past_at(self, which: np.ndarray, places: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Past covariates [batch, n, past], 0 before the series."""
        rows = self.past[np.where(there, self.offsets[which, None] + places, 0)]
        return np.where(there[..., None], rows, 0.0)

    def future_at(self, which: np.ndarray, places: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Future covariates [batch, n, future], 0 before the series."""
        rows = self.future[np.where(there, self.longer[which, None] + places, 0)]
        return np.where(there[..., None], rows, 0.0)

    def calendar_at(self, which: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Calendar features [batch, segments, features] of each segment's first step, 0 before the series."""
        read, written = self.cut.segments
        places = origins[:, None] + np.arange(-read, written) * self.cut.segment
        if not self.calendar.shape[1]:
            return np.zeros((*places.shape, 0), dtype=np.float32)
        there = places >= 0
        rows = self.calendar[np.where(there, self.longer[which, None] + places, 0)]
        return np.where(there[..., None], rows, 0.0)


def tensor(values: np.ndarray) -> Tensor:
    """A float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [batch] of what is not NaN in [batch, time]; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(1)
    none = np.full(len(values), np.nan)
    mean = np.divide(np.where(known, values, 0.0).sum(1), count, out=none.copy(), where=count > 0)
    away = np.where(known, values - mean[:, None], 0.0)
    return mean, np.sqrt(np.divide((away**2).sum(1), count, out=none.copy(), where=count > 0))


def sized(covariates: np.ndarray, length: int, names: Sequence[str]) -> np.ndarray:
    """Covariates cut or filled with NaN to [length, names]."""
    out = np.full((length, len(names)), np.nan)
    if covariates.shape[1] == len(names):
        given = covariates[:length]
        out[: len(given)] = given
    return out


def standardised(covariates: np.ndarray, cut: Cut, first: int) -> np.ndarray:
    """Covariates [rows, n] in units of training spread; missing ones at the mean."""
    to = first + covariates.shape[1]
    scaled = (covariates - cut.means[first:to]) / cut.spreads[first:to]
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def static_inputs(cut: Cut, series: Sequence[Series]) -> np.ndarray:
    """Static covariates [series, numbers + words] as network inputs; what is missing or new is 0."""
    out = np.zeros((len(series), len(cut.numbers) + len(cut.words)), dtype=np.float32)
    for row, one in zip(out, series, strict=True):
        for place, name in enumerate(cut.numbers):
            value = one.static.get(name)
            if isinstance(value, float) and np.isfinite(value):
                row[place] = (value - cut.number_scales[place, 0]) / cut.number_scales[place, 1]
        for place, (name, word) in enumerate(cut.words):
            row[len(cut.numbers) + place] = str(one.static.get(name)) == word
    return out
