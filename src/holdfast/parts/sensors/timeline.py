"""Timelines: which of several things was going on when, how sure that is, and pictures of it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import figure_of
from .recording import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4  # recordings in one picture


@dataclass(frozen=True, eq=False)
class Timeline:
    """Steps of time, each with a probability for every label. Steps follow each other unless there was a gap."""

    recording: str
    labels: tuple[str, ...]
    starts: np.ndarray  # [steps] float64, seconds on the recording's clock
    ends: np.ndarray  # [steps]
    probabilities: np.ndarray  # [steps, labels] float32, each row sums to 1
    dated: bool = False  # seconds since 1970-01-01, to be shown as date-times

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def best(self) -> np.ndarray:
        """[steps] the number of the likeliest label."""
        return self.probabilities.argmax(axis=1)

    def intervals(self) -> Iterator[tuple[float, float, str, float]]:
        """(start, end, label, mean probability) of the runs of steps with the same likeliest label."""
        best = self.best
        border = (best[1:] != best[:-1]) | (self.starts[1:] - self.ends[:-1] > 1e-6)
        edges = [0, *(np.flatnonzero(border) + 1).tolist(), len(self)] if len(self) else [0]
        for first, end in itertools.pairwise(edges):
            sure = np.average(self.probabilities[first:end, best[first]], weights=(self.ends - self.starts)[first:end])
            yield float(self.starts[first]), float(self.ends[end - 1]), self.labels[best[first]], float(sure)

    def at(self, times: np.ndarray) -> np.ndarray:
        """The number of the likeliest label at some times (seconds), -1 where the timeline says nothing."""
        if not len(self):
            return np.full(len(times), -1)
        step = np.searchsorted(self.starts, times + 1e-6, side="right") - 1
        told = (step >= 0) & (times < self.ends[np.maximum(step, 0)])
        return np.where(told, self.best[np.maximum(step, 0)], -1)


def join(parts: Sequence[Timeline]) -> list[Timeline]:
    """Timelines of the same recording one behind the other made one; the order of recordings stays."""
    named: dict[str, list[Timeline]] = {}
    for part in parts:
        named.setdefault(part.recording, []).append(part)
    return [
        Timeline(
            name,
            same[0].labels,
            np.concatenate([part.starts for part in same]),
            np.concatenate([part.ends for part in same]),
            np.concatenate([part.probabilities for part in same]),
            same[0].dated,
        )
        for name, same in named.items()
    ]


def interval_rows(timelines: Sequence[Timeline]) -> list[dict[str, Any]]:
    """Rows start, end, label, probability; with the recording in front where there are several."""
    several = len({timeline.recording for timeline in timelines}) > 1
    rows: list[dict[str, Any]] = []
    for timeline in join(timelines):
        for start, end, label, probability in timeline.intervals():
            when = [moment(second, timeline.dated) for second in (start, end)]
            row = {"start": when[0], "end": when[1], "label": label, "probability": round(probability, 4)}
            rows.append({"recording": timeline.recording, **row} if several else row)
    return rows


def moment(seconds: float, dated: bool) -> float | str:
    """A time as people want it: seconds to the millisecond, or a date-time."""
    if not dated:
        return round(seconds, 3)
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


# --- pictures -------------------------------------------------------------------------------------------------------


def draw_timelines(recordings: Sequence[Recording], timelines: Sequence[Timeline]) -> "Figure":
    """Signals, what was answered, how sure that is, and the truth where it is known; for the first few recordings.

    Where the truth is known a confusion matrix of the time stands below.
    """
    pairs = list(zip(recordings, timelines, strict=True))
    shown, known = pairs[:SHOWN], [pair for pair in pairs if pair[0].labels is not None]
    labels = timelines[0].labels if timelines else ()
    heights = [4.2 * len(shown), *([0.5 * len(labels) + 2.2] if known else [])]
    figure: Any = figure_of()(figsize=(11, sum(heights)), layout="constrained")
    panels = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for recording, timeline, axes in zip(
        *zip(*shown, strict=True),
        panels[0].subplots(3 * len(shown), 1, squeeze=False, height_ratios=[3, 2, 1] * len(shown)).reshape(-1, 3),
        strict=True,
    ):
        draw_signals(axes[0], recording)
        draw_probabilities(axes[1], timeline, palette(len(labels)))
        draw_bars(axes[2], recording, timeline, palette(len(labels)))
        for axis in axes:
            axis.set_xlim(0, max(float(recording.times[-1] - recording.times[0]), 1e-3))
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes[:2]:
            axis.tick_params(labelbottom=False)
    if known:
        truth, guess = seconds_of(known)
        draw_confusion(panels[-1].subplots(), truth, guess, labels)
    return figure


def palette(count: int) -> list[str]:
    """Colours that differ: matplotlib's ten, then lighter ones."""
    return [f"C{n}" if n < 10 else f"{0.2 + 0.6 * (n % 10) / 10:.2f}" for n in range(count)]


def draw_signals(axes: Any, recording: Recording) -> None:
    """All channels over time, each in units of its own spread so that they fit into one picture."""
    thin = max(1, len(recording) // 4000)
    samples = recording.samples[::thin]
    spread = np.maximum(np.nanstd(samples, axis=0), 1e-9)
    times = recording.times[::thin] - recording.times[0]
    for n, channel in enumerate(recording.channels):
        level = (samples[:, n] - np.nanmean(samples[:, n])) / spread[n] / 6 - n
        axes.plot(times, np.clip(level, -n - 0.6, -n + 0.6), lw=0.6, color="0.25")
        if len(recording.channels) > 12:
            continue
        axes.text(-0.005, -n, channel, ha="right", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set_yticks([])
    axes.set_title(recording.name or "recording", loc="left", fontsize=10, fontweight="bold")


def draw_probabilities(axes: Any, timeline: Timeline, colours: Sequence[str]) -> None:
    """Every label's probability as the height of its colour."""
    if len(timeline):
        zero = timeline.starts[0]
        edges = np.stack([timeline.starts, timeline.ends], axis=1).reshape(-1) - zero
        axes.stackplot(
            edges + 0.0, np.repeat(timeline.probabilities, 2, axis=0).T, colors=colours, labels=timeline.labels, lw=0
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), fontsize=8, frameon=False)


def draw_bars(axes: Any, recording: Recording, timeline: Timeline, colours: Sequence[str]) -> None:
    """The answer, and the truth below it, as coloured bars."""
    zero = float(recording.times[0])
    colour = dict(zip(timeline.labels, colours, strict=True))
    for start, end, label, _ in timeline.intervals():
        axes.broken_barh([(start - zero, end - start)], (1.1, 0.8), facecolors=[colour[label]])
    if recording.labels is not None:
        border = np.flatnonzero(recording.labels[1:] != recording.labels[:-1]) + 1
        edges = [0, *border.tolist(), len(recording) - 1]
        for first, end in itertools.pairwise(edges):
            start, label = float(recording.times[first]), str(recording.labels[first])
            if label:
                spot = (start - zero, float(recording.times[end]) - start)
                axes.broken_barh([spot], (0.1, 0.8), facecolors=[colour.get(label, "0.7")])
    known = recording.labels is not None
    axes.set_ylim(0 if known else 1, 2)
    axes.set_yticks([0.5, 1.5] if known else [1.5], ["truth", "answer"] if known else ["answer"], fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)


def seconds_of(pairs: Sequence[tuple[Recording, Timeline]]) -> tuple[np.ndarray, np.ndarray]:
    """(truth, answer) as class numbers for every labelled sample that has an answer."""
    truths: list[np.ndarray] = []
    guesses: list[np.ndarray] = []
    for recording, timeline in pairs:
        number = {label: n for n, label in enumerate(timeline.labels)}
        assert recording.labels is not None
        truth = np.array([number.get(str(label), -1) for label in recording.labels], dtype=np.int64)
        guess = timeline.at(recording.times)
        told = (truth >= 0) & (guess >= 0)
        truths.append(truth[told])
        guesses.append(guess[told])
    return np.concatenate(truths), np.concatenate(guesses)


def draw_confusion(axes: Any, truth: np.ndarray, guess: np.ndarray, labels: Sequence[str]) -> None:
    """Shares of each true label's items by answer, as a table of colours with the numbers written in."""
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, (truth, guess), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(share.shape):
        if table[row, column]:
            text = f"{share[row, column]:.0%}" if share[row, column] >= 0.005 else "<1%"
            dark = "white" if share[row, column] > 0.5 else "0.2"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=dark)
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("answer", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    axes.set_title("where the time went", loc="left", fontsize=10, fontweight="bold")
    axes.spines[:].set_visible(False)
