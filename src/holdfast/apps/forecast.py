"""Forecasting: series in, quantiles of their future out."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, cast, final

import numpy as np
import torch
from torch import nn

from ..parts.errors import DataError
from ..parts.quantiles import LEVELS, conformal_widening, mean_of_quantiles, pinball, widened
from ..parts.series import backtest, blending, guards
from ..parts.series.arriving import Rows, read_rows
from ..parts.series.columns import Columns
from ..parts.series.cutting import Wish, choose_cut
from ..parts.series.fanchart import fan_chart
from ..parts.series.made_up import made_up_months, made_up_series
from ..parts.series.segments import Members, Size
from ..parts.series.series import Series, read_series
from ..parts.series.windows import Cut, Stack, Windows
from ..parts.settings import setting
from ..parts.table import read_table
from ..training.application import Application, Loss, Recipe, Scores, Showcase, Source, Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("holdfast")

DATA = Path(__file__).parents[1] / "data"  # series that come with Holdfast

HALF = len(LEVELS) // 2
PAIRS = tuple(LEVELS[-1 - pair] - LEVELS[pair] for pair in range(HALF))  # coverage of each interval, widest first
PROMISED = 2  # the widest pairs are shown as intervals: they err on the wide side
AT_ONCE = 512  # windows answered together
LOOKS = 2000  # validation windows at most
EPOCH = 256  # batches in an epoch at most: between two of them the series are stacked anew


@dataclass(frozen=True)
class Outlook:
    """What is known before the first forecast: how windows are cut, and how forecasts are corrected."""

    cut: Cut
    nonnegative: bool  # no training value was negative: no forecast is
    share: float  # of the network in the blend with theta and exponential smoothing
    widening: np.ndarray  # [horizon, pairs] conformal, in units of the window's scale; the widest pair first

    @property
    def memory(self) -> int:
        """Values of a series that a forecast may depend on; older ones are not looked at."""
        return max(self.cut.context + 3 * max(self.cut.lags, default=0), 12 * self.cut.season, 200)


class Stacked(NamedTuple):
    """Series, gathered so that windows are cut fast."""

    stack: Stack
    examples: Sequence[Series]


@dataclass(frozen=True, eq=False)
class Forecast:
    """The future of one series."""

    id: str
    first: int  # stamp of the first step
    times: list[str] | list[int]  # [horizon]
    mean: np.ndarray  # [horizon] of the distribution
    quantiles: np.ndarray  # [horizon, levels], ascending
    levels: tuple[float, ...] = LEVELS

    @property
    def median(self) -> np.ndarray:
        """[horizon]."""
        return self.quantiles[:, HALF]

    def interval(self, percent: Literal[80, 95]) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end [horizon] of the interval that covers so many per cent."""
        pair = {95: 0, 80: 1}[percent]
        return self.quantiles[:, pair], self.quantiles[:, -1 - pair]


@final
@dataclass(frozen=True)
class Forecaster(Application[Series, Outlook, Stacked, Windows, Forecast, Mapping[str, Any]]):
    """Forecast many series with one segment LSTM; intervals calibrated, gaps allowed, unseen series welcome."""

    horizon: int | None = setting(None, "steps to forecast; chosen by the frequency if not given", low=1)
    context: int | None = setting(None, "steps of history that are read; chosen if not given", low=1)
    season: int | None = setting(None, "steps per season, 1 for none; found if not given", low=1)
    seasons: tuple[int, ...] = setting((), "all season lengths, such as 24 168; found if not given", low=2)
    segment: int | None = setting(None, "steps read and written at a time; chosen if not given", low=1)
    hidden: int = setting(128, "memory cells", low=1)
    members: int = setting(4, "networks whose answers are averaged", low=1)
    dropout: float = setting(0.1, "share of the decoder's outputs dropped in training", low=0.0, high=0.95)
    transform: Literal["auto", "log", "none"] = setting("auto", "see values as logarithms: auto where all are positive")
    error: Literal["season", "series"] = setting(
        "season",
        "training counts errors in units of seasonal changes (as MASE) or of the spread of the series (as MSE)",
    )
    blend: bool = setting(True, "mix in theta and exponential smoothing where that helps on validation")
    id_column: tuple[str, ...] = setting((), "columns that tell the series apart; found if not given")
    time_column: str | None = setting(None, "column of times; found if not given")
    value_column: str | None = setting(None, "column to forecast; found if not given")
    past: tuple[str, ...] = setting((), "columns known up to now")
    future: tuple[str, ...] = setting((), "columns known ahead, such as prices and holidays")
    static: tuple[str, ...] = setting((), "columns with one value per series")
    windows: int = setting(1, "backtest: forecasts per series", low=1, use=True)
    stride: int | None = setting(
        None, "backtest: steps between two forecasts; the horizon if not given", low=1, use=True
    )
    quantiles: bool = setting(False, "write every quantile beside the intervals", use=True)

    task: ClassVar[str] = "forecast"
    summary: ClassVar[str] = "series in, quantiles of their future out"
    recipe: ClassVar[Recipe] = Recipe(steps=2000, batch=64, learning_rate=2e-3, average=0.99, weight_decay=0.01)
    codec_type: ClassVar[type] = Outlook

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[Series]:
        """Long, wide or row-per-series tables: .csv .tsv .jsonl .parquet (.gz, .xz) or a data frame."""
        return read_series(read_table(source, dates=False), self.columns)

    @property
    def columns(self) -> Columns:
        """The columns the user named."""
        values = () if self.value_column is None else (self.value_column,)
        return Columns(self.id_column, self.time_column, values, self.past, self.future, self.static)

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Series]:
        """Daily sales of made-up shops: trend, weeks, wages every second Friday, noise and gaps."""
        return made_up_series(count, rng)

    def split(self, examples: Sequence[Series], rng: np.random.Generator) -> tuple[list[Series], list[Series]]:
        """By time: the end of every series that is long enough is held out; training never sees it."""
        ahead = self.horizon or examples[0].frequency.horizon
        wanted = ahead + -(-64 // len(examples)) * max(1, ahead // 4)  # 64 validation windows in all
        train: list[Series] = []
        valid: list[Series] = []
        for one in examples:
            length = len(one.values)
            tail = max(ahead, min(wanted, length // 5), min(3 * ahead, length // 10))
            if length >= 2 * ahead + tail:
                train.append(one.until(length - tail))
                valid.append(one.since(length - tail))
            else:
                train.append(one)
        return train, valid

    def prepare(self, examples: Sequence[Series]) -> Outlook:
        """How to cut windows, and the season; corrections come with calibrate."""
        wish = Wish(
            self.horizon, self.context, self.segment, self.season, self.seasons, self.transform, self.error,
            self.past, self.future, self.static,
        )  # fmt: skip
        cut = choose_cut(examples, wish)
        nonnegative = all(np.nanmin(one.values) >= 0 for one in examples)
        return Outlook(cut, nonnegative, 1.0, np.zeros((cut.horizon, HALF)))

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Outlook) -> nn.Module:
        """Segment LSTMs whose answers are averaged."""
        return Members(codec.cut, Size(self.hidden, self.dropout, self.members), LEVELS)

    def encode(self, codec: Outlook, examples: Sequence[Series]) -> Stacked:
        """The series in flat arrays, and as they are."""
        return Stacked(Stack(codec.cut, examples), examples)

    def batches(
        self, codec: Outlook, encoded: Stacked, size: int, rng: np.random.Generator | None
    ) -> Iterator[Windows]:
        """Windows at random moments, ``size`` for each member; for validation those at the end of each series."""
        stack, examples = encoded
        if rng is None:
            which, origins = backtest.last_origins(examples, codec.cut, LOOKS)
        else:
            size *= self.members
            which, origins = backtest.random_origins(stack, size, EPOCH, rng)
        for begin in range(0, len(which), size):
            yield stack.windows(which[begin : begin + size], origins[begin : begin + size])

    def loss(self, net: nn.Module, batch: Windows, state: Any = None) -> Loss:
        """Pinball loss in units of each window's scale, the mean over the levels."""
        levels = cast("torch.Tensor", net.levels)
        error = pinball(net(batch), batch.target, levels).mean(-1) * batch.weight
        return Loss(error.sum(), max(1, int((batch.weight > 0).sum())))

    def calibrate(self, net: nn.Module, codec: Outlook, examples: Sequence[Series]) -> Outlook:
        """On the validation windows: the network's share in the blend, then conformal widths."""
        stack, _ = self.encode(codec, examples)
        which, origins = backtest.last_origins(examples, codec.cut, LOOKS)
        asked = backtest.Asked.of(stack, which, origins)
        quantiles, _ = answers(net, stack, which, origins)
        if self.blend:
            classic = blending.classic(codec.cut, examples, which, origins, codec.memory)
            share = blending.best_share(quantiles[..., HALF], classic, asked)
            log.info(
                "forecast: %.0f %% network, %.0f %% theta and exponential smoothing", 100 * share, 100 - 100 * share
            )
            quantiles = blending.blended(quantiles, classic, share)
            codec = dataclasses.replace(codec, share=share)
        scale = asked.scale[:, None]
        apart = backtest.apart(which, origins, codec.cut.horizon)
        widening = [
            conformal_widening(
                quantiles[..., pair] / scale,
                quantiles[..., -1 - pair] / scale,
                asked.target / scale,
                PAIRS[pair],
                independent=apart if pair < PROMISED else None,
            )
            for pair in range(HALF)
        ]
        return dataclasses.replace(codec, widening=np.stack(widening, axis=1))

    # --- answering ----------------------------------------------------------------------------------------------------

    def quantiles_at(
        self, net: nn.Module, codec: Outlook, examples: Sequence[Series], which: np.ndarray, origins: np.ndarray
    ) -> np.ndarray:
        """Calibrated quantiles [windows, horizon, levels] of series ``which`` when ``origins`` values are known."""
        for one in examples:
            if one.frequency != codec.cut.frequency:
                raise DataError(
                    f"series {one.id} is {one.frequency.name}; this model was trained on {codec.cut.frequency.name}",
                    hint="train a model on such series, or resample them",
                )
        stack = Stack(codec.cut, examples)
        quantiles, scale = answers(net, stack, which, origins)
        if codec.share < 1:
            classic = blending.classic(codec.cut, examples, which, origins, codec.memory)
            quantiles = blending.blended(quantiles, classic, codec.share)
        quantiles = widened(quantiles, LEVELS, codec.widening * scale[:, None, None])
        quantiles = codec.cut.unseen(guards.bounded(quantiles, stack, which, origins, codec.memory))
        lost = guards.without_logarithms(codec.cut, examples, which, origins, codec.memory)
        if lost.any():
            quantiles[lost] = guards.smoothed(codec.cut, examples, which[lost], origins[lost], codec.memory, LEVELS)
        if not codec.nonnegative:
            return quantiles
        negative = guards.signs(examples, which, origins, codec.memory)[0]
        return np.where(negative[:, None, None], quantiles, np.maximum(quantiles, 0.0))

    def predict(self, net: nn.Module, codec: Outlook, inputs: Sequence[Series]) -> list[Forecast]:
        """The steps after each series' last value."""
        if not inputs:
            return []
        recent = [newest(one, codec.memory) for one in inputs]
        origins = np.array([len(one.values) for one in recent])
        quantiles = self.quantiles_at(net, codec, recent, np.arange(len(recent)), origins)
        guards.warn_of_plans(codec.cut, recent)
        mean = mean_of_quantiles(quantiles, LEVELS)
        if codec.cut.logarithmic:  # a wide tail of logarithms must not carry the mean out of the interval
            mean = np.clip(mean, quantiles[..., 1], quantiles[..., -2])
        stamps = [one.stamps(len(one.values), codec.cut.horizon) for one in recent]
        return [
            Forecast(one.id, int(ahead[0]), one.frequency.text(ahead), *of)
            for one, ahead, *of in zip(recent, stamps, mean, quantiles, strict=True)
        ]

    def evaluate(self, net: nn.Module, codec: Outlook, examples: Sequence[Series]) -> Scores:
        """Rolling-origin backtest beside seasonal naive, theta and exponential smoothing. M4's measures."""
        which, origins = backtest.rolling_origins(examples, codec.cut.horizon, self.windows, self.stride)
        quantiles = self.quantiles_at(net, codec, examples, which, origins)
        scores = backtest.scores(examples, which, origins, quantiles, LEVELS, codec.cut.season)
        backtest.say_plainly(scores)
        return scores

    def stream(self, net: nn.Module, codec: Outlook) -> Stream[Mapping[str, Any], Forecast]:
        """Rows in, as they come; flush gives the forecasts of all series heard."""
        return ForecastStream(self, net, codec)

    def pieces(self, source: BinaryIO) -> Iterator[Mapping[str, Any]]:
        """Rows of a CSV with a header, or JSON lines."""
        return read_rows(source)

    def rows(self, outputs: Sequence[Forecast]) -> list[dict[str, Any]]:
        """id, time, mean, lo-80, hi-80, lo-95, hi-95; with ``quantiles`` also q-0.025 ... q-0.975."""
        table: list[dict[str, Any]] = []
        for one in outputs:
            (low80, high80), (low95, high95) = one.interval(80), one.interval(95)
            for step, time in enumerate(one.times):
                numbers = {"mean": one.mean[step], "lo-80": low80[step], "hi-80": high80[step]}
                numbers |= {"lo-95": low95[step], "hi-95": high95[step]}
                if self.quantiles:
                    numbers |= {f"q-{lv:g}": q for lv, q in zip(one.levels, one.quantiles[step], strict=True)}
                table.append({"id": one.id, "time": time} | {key: float(number) for key, number in numbers.items()})
        return table

    @classmethod
    def showcase(cls) -> Showcase:
        """Two classical monthly series, their last year held out, learned together with 200 made-up ones.

        A demonstration, not a benchmark: its number of steps was set by someone who had seen that year.
        """
        application = cls(horizon=12, season=12)
        full = application.read(DATA / "monthly.csv")
        known = [one.until(len(one.values) - 12) for one in full]
        story = "Airline passengers (1949-60) and Melbourne's temperatures (1981-90): what comes in the year held out?"
        recipe = dataclasses.replace(cls.recipe, steps=1200)
        train = [*known, *made_up_months(200, np.random.default_rng(0))]
        return Showcase(story, application, recipe, train, known, full)

    def draw(self, inputs: Sequence[Series], outputs: Sequence[Forecast]) -> "Figure":
        """History, median, the 80 % and 95 % fans, and what came true where the inputs tell; a picture per series."""
        fans = [(one.median, *one.interval(80), *one.interval(95)) for one in outputs]
        return fan_chart(inputs, fans, [one.first for one in outputs])


def answers(net: nn.Module, stack: Stack, which: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network's quantiles [windows, horizon, levels] of seen values, before all corrections; scales [windows]."""
    found = [np.zeros((0, stack.cut.horizon, len(LEVELS)))]
    scales = [np.zeros(0)]
    for begin in range(0, len(which), AT_ONCE):
        windows = stack.windows(which[begin : begin + AT_ONCE], origins[begin : begin + AT_ONCE])
        scaled = net(windows)[:, : stack.cut.horizon].double().numpy()
        found.append(windows.centre[:, None, None] + windows.scale[:, None, None] * scaled)
        scales.append(windows.scale)
    return np.concatenate(found), np.concatenate(scales)


def newest(one: Series, memory: int) -> Series:
    """The last ``memory`` values of a series."""
    skip = max(0, len(one.values) - memory)
    if skip == 0:
        return one
    return dataclasses.replace(
        one,
        start=int(one.stamps(skip, 1)[0]),
        values=one.values[skip:],
        past=one.past[skip:],
        future=one.future[skip:],
        origin=max(0, one.origin - skip),
    )


@final
class ForecastStream(Stream[Mapping[str, Any], Forecast]):
    """Keeps the newest values of every series; says nothing before the end, for every row changes the forecast."""

    def __init__(self, application: Forecaster, net: nn.Module, codec: Outlook) -> None:
        self.application, self.net, self.codec = application, net, codec
        self.heard = Rows(application.columns, codec.cut.frequency, codec.memory)

    def push(self, piece: Mapping[str, Any]) -> list[Forecast]:
        """One row. Raises DataError where its time does not follow, or is off the grid."""
        self.heard.add(piece)
        return []

    def flush(self) -> list[Forecast]:
        """The forecasts of all series, in order of first appearance."""
        series = self.heard.series()
        self.heard = Rows(self.application.columns, self.codec.cut.frequency, self.codec.memory)
        with torch.inference_mode():
            return self.application.predict(self.net, self.codec, series)

    def state(self) -> bytes:
        """The rows kept."""
        return self.heard.pack()

    def restore(self, state: bytes) -> None:
        """Go on from state()."""
        self.heard = Rows.unpack(state, self.application.columns, self.codec.cut.frequency, self.codec.memory)
