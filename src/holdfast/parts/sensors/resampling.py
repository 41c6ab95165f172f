"""Samples taken at any times -> samples at a fixed rate, while they come in.

Each output is a weighted mean of the inputs around it, with a Kaiser-windowed sinc as weights (Smith, "Digital Audio
Resampling", ccrma.stanford.edu/~jos/resample), divided by the weights' sum so that a constant stays a constant where
samples are few. When the rate falls, the sinc is made wider, so that what the new rate cannot hold is taken out first.
An output depends on the inputs around it and on nothing else: the same samples come out whatever the chunks.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError

CROSSINGS = 12  # zero crossings of the sinc on each side: 0.24 s of looking ahead at 50 Hz
BETA = 5.0  # Kaiser window: side lobes near -53 dB (Oppenheim & Schafer, eq. 7.75)
ROLL_OFF = 0.9  # where the rate falls: cutoff as a share of the new half rate, the rest is the filter's slope
PROBE = 32  # intervals whose median tells the incoming rate
BLOCK = 4096  # outputs computed at a time, to bound memory
HOLE = 1.5  # an interval longer than this many usual ones is a gap
SLOWEST = 1.0  # samples per second; below, what is taken for seconds are surely milliseconds or rows of a diary


@dataclass(frozen=True)
class Stretch:
    """Some samples at the fixed rate, without a gap; the first of them follows the last stretch's, or begins anew."""

    start: float  # seconds, time of the first sample
    samples: np.ndarray  # [time, channels] float32
    begins: bool  # a gap, or nothing, came before


@dataclass
class Resampler:
    """Turns samples at any times into stretches at ``rate`` samples per second.

    Rows with NaN count as not measured. Gaps up to ``gap`` seconds are filled by straight lines; a longer one ends the
    stretch and the next sample begins a new one.
    """

    rate: float
    channels: int
    gap: float
    incoming: float | None = None  # samples per second of what comes in, once it is known
    measured: float | None = None  # the same, and still after flush()
    times: np.ndarray = field(default_factory=lambda: np.empty(0))  # [kept] seconds
    values: np.ndarray | None = None  # [kept, channels] float64
    origin: float | None = None  # time of the stretch's first sample
    given: int = 0  # outputs of this stretch so far
    last: float = -np.inf  # time of the latest row, measured or not
    filled: int = 0  # gaps that were filled, rows that were not measured, stretches that ended: for the log
    skipped: int = 0
    split: int = 0

    def __post_init__(self) -> None:
        if self.values is None:
            self.values = np.empty((0, self.channels))

    def push(self, times: np.ndarray, values: np.ndarray) -> list[Stretch]:
        """Take samples [time, channels] at times [time] (seconds); give what can be said now for good."""
        order = np.diff(times, prepend=self.last)
        if len(times) and not order.min() >= 0:
            at = times[int(np.argmin(order))]
            raise DataError(f"time goes backwards at {at:.6f} s", hint="samples come in the order of their times")
        self.last = float(times[-1]) if len(times) else self.last
        known = np.isfinite(values).all(axis=1) & (order > 0)  # of several samples at one time the first counts
        self.skipped += int(len(times) - known.sum())
        times, values = times[known], values[known].astype(np.float64)
        if self.incoming is None:
            times, values = self.wait(times, values)
            if self.incoming is None:
                return []
        return [stretch for part in self.parts(times, values) for stretch in self.take(*part)]

    def flush(self) -> list[Stretch]:
        """The samples are over: give the rest, and be ready for others."""
        stretches: list[Stretch] = []
        if self.incoming is None and len(self.times) > 1:
            self.incoming = self.measure(self.times)
            times, values = self.times, self.held
            self.forget()
            stretches = [stretch for part in self.parts(times, values) for stretch in self.take(*part)]
        stretches += self.give(final=True)
        self.forget()
        self.incoming, self.last = None, -np.inf
        return stretches

    @property
    def held(self) -> np.ndarray:
        """[kept, channels] the input samples that are still needed."""
        assert self.values is not None
        return self.values

    def forget(self) -> None:
        """Begin a new stretch."""
        self.times, self.values = np.empty(0), np.empty((0, self.channels))
        self.origin, self.given = None, 0

    def wait(self, times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold samples back until they tell their rate, then hand all of them out."""
        self.times, self.values = np.concatenate([self.times, times]), np.concatenate([self.held, values])
        if len(self.times) <= PROBE:
            return times, values
        self.incoming = self.measure(self.times[: PROBE + 1])
        times, values = self.times, self.held
        self.forget()
        return times, values

    def measure(self, times: np.ndarray) -> float:
        """Samples per second of some times. Raises DataError where they cannot be seconds."""
        incoming = 1.0 / float(np.median(np.diff(times)))
        if incoming < SLOWEST:
            hint = "times are in seconds, unless the time column is named so (time_ms) or --time-unit says so"
            raise DataError(f"there are only {incoming:.3g} samples per second of time", hint=hint)
        self.measured = incoming
        return incoming

    def parts(self, times: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """Samples with short gaps filled, cut where a long gap lies; True says that a gap lies before the part."""
        assert self.incoming is not None
        if not len(times):
            return []
        if len(self.times):  # the gap may lie between two pushes
            times = np.concatenate([self.times[-1:], times])
            values = np.concatenate([self.held[-1:], values])
        steps = np.diff(times)
        longest = max(self.gap, HOLE / self.incoming)
        found: list[tuple[np.ndarray, np.ndarray, bool]] = []
        for n, rows in enumerate(np.split(np.arange(len(times)), np.flatnonzero(steps > longest) + 1)):
            dense = self.fill(times[rows], values[rows])
            known = 1 if n == 0 and len(self.times) else 0  # the sample borrowed from the last push
            found.append((dense[0][known:], dense[1][known:], n > 0))
        return found

    def fill(self, times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Straight lines over gaps, with samples as dense as the usual ones."""
        assert self.incoming is not None
        steps = np.diff(times)
        holes = np.flatnonzero(steps > HOLE / self.incoming)
        if not len(holes):
            return times, values
        self.filled += len(holes)
        extra: list[np.ndarray] = [
            times[hole] + steps[hole] * np.arange(1, count) / count
            for hole in holes
            if (count := round(steps[hole] * self.incoming))
        ]
        dense = np.sort(np.concatenate([times, *extra]))
        lines = [np.interp(dense, times, values[:, channel]) for channel in range(self.channels)]
        return dense, np.stack(lines, axis=1)

    def take(self, times: np.ndarray, values: np.ndarray, anew: bool) -> list[Stretch]:
        """Add samples that have no gap among them; give what they make known."""
        ended: list[Stretch] = []
        if anew:
            ended = self.give(final=True)
            self.forget()
            self.split += 1
        if self.origin is None and len(times):
            self.origin = float(times[0])
        self.times, self.values = np.concatenate([self.times, times]), np.concatenate([self.held, values])
        return ended + self.give(final=False)

    def reach(self) -> tuple[float, int]:
        """Cutoff (cycles per incoming sample) and half length (incoming samples) of the filter."""
        assert self.incoming is not None
        falls = self.rate < self.incoming * (1 - 1e-3)
        cutoff = 0.5 * ROLL_OFF * self.rate / self.incoming if falls else 0.5
        return cutoff, int(np.ceil(CROSSINGS / (2 * cutoff)))

    def give(self, final: bool) -> list[Stretch]:
        """The outputs that later samples cannot change; at the end of a stretch, all of them."""
        cutoff, half = self.reach() if self.incoming is not None else (0.5, 0)
        if self.origin is None or (not final and len(self.times) <= half):
            return []
        end = self.times[-1] if final else self.times[-1 - half]
        count = int(np.floor((end - self.origin) * self.rate + 1e-6)) + 1 - self.given
        if count <= 0:
            return []
        grid: np.ndarray = self.origin + (self.given + np.arange(count)) / self.rate
        blocks = [self.filtered(grid[n : n + BLOCK], cutoff, half) for n in range(0, count, BLOCK)]
        samples = np.concatenate(blocks).astype(np.float32)
        stretch = Stretch(float(grid[0]), samples, begins=self.given == 0)
        self.given += count
        keep = max(0, int(np.searchsorted(self.times, grid[-1])) - half - 1)
        self.times, self.values = self.times[keep:], self.held[keep:]
        return [stretch]

    def filtered(self, grid: np.ndarray, cutoff: float, half: int) -> np.ndarray:
        """The signal at the times of a grid, [time, channels].

        Distances are counted in incoming samples, between which time runs evenly: so neither a clock that drifts nor
        time stamps that tremble disturb the sinc, whose zeros must fall on the samples.
        """
        place = np.interp(grid, self.times, np.arange(len(self.times)))  # [time] in incoming samples
        at = np.floor(place).astype(np.int64)[:, None] + np.arange(1 - half, half + 1)  # [time, taps]
        away = place[:, None] - at
        bell = np.i0(BETA * np.sqrt(np.clip(1 - (away / half) ** 2, 0, 1)))
        inside = (at >= 0) & (at < len(self.times)) & (np.abs(away) <= half)
        weights = np.where(inside, np.sinc(2 * cutoff * away) * bell, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("nk,nkc->nc", weights, self.held[np.clip(at, 0, len(self.times) - 1)])

    # --- as values that a file can hold ---

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is not a setting, as JSON values and arrays."""
        names = ("incoming", "origin", "given", "filled", "skipped", "split")
        last = self.last if np.isfinite(self.last) else None
        return {"last": last, **{name: getattr(self, name) for name in names}}, {
            "times": self.times,
            "values": self.held,
        }

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from state()."""
        self.incoming, self.origin = values["incoming"], values["origin"]
        self.given, self.filled = values["given"], values["filled"]
        self.skipped, self.split = values["skipped"], values["split"]
        self.last = -np.inf if values["last"] is None else values["last"]
        self.times, self.values = arrays["times"], arrays["values"]


def resample(times: np.ndarray, values: np.ndarray, resampler: Resampler) -> tuple[np.ndarray, np.ndarray]:
    """A whole recording at once: (times [time] float64, samples [time, channels] float32), with jumps at long gaps."""
    stretches = resampler.push(times, values) + resampler.flush()
    grids = [stretch.start + np.arange(len(stretch.samples)) / resampler.rate for stretch in stretches]
    samples = [stretch.samples for stretch in stretches]
    empty = np.empty((0, resampler.channels), dtype=np.float32)
    return np.concatenate([np.empty(0), *grids]), np.concatenate([empty, *samples])


def on_grid(times: np.ndarray, rate: float, gap: float) -> bool:
    """Whether samples already lie at the fixed rate, apart from jumps of more than ``gap`` seconds."""
    steps = np.diff(times) * rate
    even = np.abs(steps - 1) < 1e-3
    jumps = steps > max(gap * rate, HOLE)
    return bool(np.all(even | jumps) and even.sum() >= jumps.sum())  # a slower rate is not a row of jumps
