"""Windows of equal length cut from recordings, each inside one stretch of one label."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import DataError, did_you_mean
from .recording import Recording
from .resampling import HOLE, Resampler, on_grid, resample

log = logging.getLogger("holdfast")


class Frame(NamedTuple):
    """A window of a recording: where it begins, and how far it may be shifted without leaving its label."""

    recording: int
    start: int  # samples from the recording's first
    earliest: int
    latest: int
    label: str


def gridded(recording: Recording, channels: Sequence[str], rate: float, gap: float) -> Recording:
    """A recording of these channels at this rate (samples per second), with jumps in time at gaps beyond ``gap`` s.

    One that is so already comes back as it is. Gaps are told to the log "holdfast".
    """
    samples = recording.ordered(channels)
    if on_grid(recording.times, rate, gap) and np.isfinite(samples).all():
        return dataclasses.replace(recording, channels=tuple(channels), samples=samples)
    filter = Resampler(rate, len(channels), gap)
    times, values = resample(recording.times, samples, filter)
    tell_rate(recording.name, filter.measured, rate)
    if filter.skipped or filter.filled or filter.split:
        message = (
            "%s: rows without a measurement: %d; gaps filled by a straight line: %d; gaps beyond %g s left open: %d"
        )
        log.warning(message, recording.name or "recording", filter.skipped, filter.filled, gap, filter.split)
    labels = None
    if recording.labels is not None:
        latest = np.searchsorted(recording.times, times + 1e-6 / rate, side="right") - 1
        labels = recording.labels[np.maximum(latest, 0)]
    return dataclasses.replace(recording, channels=tuple(channels), times=times, samples=values, labels=labels)


def tell_rate(name: str, incoming: float | None, rate: float) -> None:
    """Warn where samples come at less than half the rate (samples per second) at which they are looked at."""
    if incoming is not None and incoming < rate / 2:
        log.warning(
            "%s: %.3g samples per second come in, less than half of the model's %g: what is fast was not measured",
            name or "the recording", incoming, rate,
        )  # fmt: skip


def tell_labels(recordings: Sequence[Recording], found: Sequence[Frame], rate: float, window: int) -> None:
    """Warn of labels that no window has."""
    longest: dict[str, float] = {}
    for recording in recordings:
        for first, end in stretches(recording, rate, by_label=True) if recording.labels is not None else ():
            label = str(recording.labels[first]).strip()  # pyright: ignore[reportOptionalSubscript]
            longest[label] = max(longest.get(label, 0.0), (end - first) / rate)
    learned = {frame.label for frame in found}
    for label in sorted(set(longest) - learned - {""}):
        message = "the label %r is not learned: its longest run without a gap is %.2f s, and a window lasts %.2f s"
        log.warning(message, label, longest[label], window / rate)


def tell_alike(labels: Sequence[str]) -> None:
    """Warn of labels that differ in case only."""
    for one, other in itertools.combinations(labels, 2):
        if one.casefold() == other.casefold():
            log.warning("the labels %r and %r differ in case only, and are learned as two", one, other)


def stretches(recording: Recording, rate: float, *, by_label: bool) -> list[tuple[int, int]]:
    """(first, end) of the runs of samples without a jump in time and, where asked, with one label."""
    if not len(recording):
        return []
    border = np.diff(recording.times) * rate > HOLE
    if by_label and recording.labels is not None:
        border |= recording.labels[1:] != recording.labels[:-1]
    edges = [0, *(np.flatnonzero(border) + 1).tolist(), len(recording)]
    return list(itertools.pairwise(edges))


def frames(recordings: Sequence[Recording], rate: float, window: int, hop: int) -> list[Frame]:
    """All windows of ``window`` samples every ``hop`` samples from the start of each stretch of one known label."""
    found: list[Frame] = []
    for number, recording in enumerate(recordings):
        if recording.labels is None:
            continue
        for first, end in stretches(recording, rate, by_label=True):
            label = str(recording.labels[first]).strip()
            if label:
                latest = end - window
                found += [Frame(number, at, first, latest, label) for at in range(first, latest + 1, hop)]
    return found


def cut_frames(recordings: Sequence[Recording], chosen: Sequence[Frame], window: int) -> np.ndarray:
    """The samples of some frames, [frames, window, channels] float32."""
    rows = [recordings[frame.recording].samples[frame.start : frame.start + window] for frame in chosen]
    return np.stack(rows, dtype=np.float32)


def label_numbers(chosen: Sequence[Frame], labels: Sequence[str]) -> np.ndarray:
    """The places of the frames' labels among ``labels``, [frames] int64. Raises DataError for one that is not there."""
    number = {label: n for n, label in enumerate(labels)}
    for frame in chosen:
        if frame.label not in number:
            raise DataError(f"the label {frame.label!r} was not learned{did_you_mean(frame.label, labels)}")
    return np.array([number[frame.label] for frame in chosen], dtype=np.int64)


def shifted(frame: Frame, most: int, rng: np.random.Generator) -> Frame:
    """A frame moved by at most ``most`` samples inside its stretch."""
    start = int(np.clip(frame.start + rng.integers(-most, most + 1), frame.earliest, frame.latest))
    return frame._replace(start=start)


def statistics(x: np.ndarray) -> np.ndarray:
    """What a classifier without memory can see of windows [windows, time, features]: [windows, 6 * features].

    Mean, standard deviation, smallest, largest, mean step and mean distance from the mean of each feature.
    """
    mean = x.mean(axis=1)
    steps, away = np.abs(np.diff(x, axis=1)).mean(axis=1), np.abs(x - mean[:, None]).mean(axis=1)
    return np.concatenate([mean, x.std(axis=1), x.min(axis=1), x.max(axis=1), steps, away], axis=1)
