"""Listening to sensors: windows shown to a network as they fill, and a final answer for every hop."""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import nn

from ..errors import DataError
from ..packing import pack, unpack
from . import framing
from .recording import Recording
from .resampling import Resampler, Stretch
from .timeline import Timeline
from .window_classifier import odd_channel, probabilities_of

log = logging.getLogger("holdfast")

KEPT = ("name", "dated", "origin", "heard", "windows", "given", "began", "spoke", "told")  # in a state


class Ways(Protocol):
    """How is looked."""

    @property
    def rate(self) -> float: ...  # samples per second
    @property
    def window_samples(self) -> int: ...
    @property
    def hop_samples(self) -> int: ...
    @property
    def smooth(self) -> int: ...  # neighbouring windows averaged on each side
    @property
    def gap(self) -> float: ...  # longest gap in seconds that is filled


class Facts(Protocol):
    """What was found in training."""

    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def mean(self) -> np.ndarray: ...  # [features], channels first
    @property
    def scale(self) -> np.ndarray: ...
    @property
    def temperature(self) -> float: ...


class Listener:
    """Answers every hop, final once given: a step's probability is the mean over the windows that cover it and
    ``smooth`` more on each side, so it is known a window and ``smooth`` hops after the step began.
    """

    def __init__(self, ways: Ways, net: nn.Module, facts: Facts) -> None:
        self.ways, self.net, self.facts = ways, net, facts
        self.resampler = Resampler(ways.rate, len(facts.channels), ways.gap)
        self.kind = f"activity {', '.join(facts.channels)} -> {', '.join(facts.labels)}"  # whose state() it is
        self.name, self.dated = "", False
        self.began: float | None = None  # seconds, time of the recording's first row
        self.spoke = False  # whether anything of this recording was answered
        self.told: list[str] = []  # warnings about this recording
        self.forget()

    def forget(self) -> None:
        """Nothing of a stretch is known yet."""
        self.origin = 0.0  # seconds, time of the stretch's first sample
        self.waiting = np.empty((0, len(self.facts.channels)), dtype=np.float32)  # from the next window's start on
        self.heard = 0  # samples of this stretch
        self.windows = 0  # windows of this stretch
        self.given = 0  # steps answered
        self.recent = np.empty((0, len(self.facts.labels)), dtype=np.float32)  # probabilities of the latest windows

    def push(self, piece: Recording) -> list[Timeline]:
        """The answers that a piece of a recording makes known, a step each."""
        self.name, self.dated = piece.name, piece.dated
        if self.began is None and len(piece):
            self.began = float(piece.times[0])
        outputs = self.take(self.resampler.push(piece.times, piece.ordered(self.facts.channels)))
        self.tell_rate()
        return outputs

    def flush(self) -> list[Timeline]:
        """The rest. Raises DataError where a recording came in that is too short for any answer."""
        began, last, spoke = self.began, self.resampler.last, self.spoke
        outputs = self.finish()
        if began is not None and not spoke and not outputs:
            window = self.ways.window_samples / self.ways.rate
            seconds = last - began
            short = f"lasts {seconds:.2f} s" if seconds < window else f"has no {window:g} s without a gap"
            hint = f"an answer needs a whole window, {window:g} s"
            raise DataError(f"{self.name or 'the recording'} {short}", hint=hint)
        return outputs

    def finish(self) -> list[Timeline]:
        """The rest of a recording, and readiness for another."""
        outputs = self.take(self.resampler.flush()) + self.end()
        self.tell_rate()
        self.forget()
        self.began, self.spoke, self.told = None, False, []
        self.resampler.measured = None
        return outputs

    def tell_rate(self) -> None:
        """Warn once of a recording at a far lower rate."""
        if "rate" not in self.told and self.resampler.measured is not None:
            self.told.append("rate")
            framing.tell_rate(self.name, self.resampler.measured, self.ways.rate)

    def tell_odd(self, x: np.ndarray) -> None:
        """Warn once of windows [windows, window, channels] unlike all that was learned from."""
        channel = None if "odd" in self.told else odd_channel(x, self.facts.mean, self.facts.scale)
        if channel is not None:
            self.told.append("odd")
            log.warning(
                "%s: the channel %r lies far from all that was learned from (mean %.4g, deviation %.4g): %.4g; "
                "another unit, or a fault? the answers are guesses",
                self.name or "the recording", self.facts.channels[channel], self.facts.mean[channel],
                self.facts.scale[channel], x[..., channel].flat[np.abs(x[..., channel]).argmax()],
            )  # fmt: skip

    def take(self, stretches: Sequence[Stretch]) -> list[Timeline]:
        """The answers that new samples at the network's rate make known."""
        outputs: list[Timeline] = []
        for stretch in stretches:
            if stretch.begins:
                outputs += self.end()
                self.forget()
                self.origin = stretch.start
            self.waiting = np.concatenate([self.waiting, stretch.samples])
            self.heard += len(stretch.samples)
            self.look()
            outputs += self.answer(self.windows - self.ways.smooth)
        return outputs

    def look(self) -> None:
        """Show the network all windows that are complete."""
        window, hop = self.ways.window_samples, self.ways.hop_samples
        count = (len(self.waiting) - window) // hop + 1
        if count <= 0:
            return
        x = np.stack([self.waiting[n * hop : n * hop + window] for n in range(count)])
        self.tell_odd(x)
        self.waiting = self.waiting[count * hop :]
        self.windows += count
        self.recent = np.concatenate([self.recent, probabilities_of(self.net, self.facts.temperature, x)])

    def end(self) -> list[Timeline]:
        """The rest of a stretch; what comes after its last whole window is taken to go on as that one."""
        return self.answer(-(-self.heard // self.ways.hop_samples)) if self.windows else []

    def answer(self, until: int) -> list[Timeline]:
        """The steps before ``until`` that were not given yet, and oblivion for what they no longer need."""
        if until <= self.given:
            return []
        ways, first = self.ways, self.windows - len(self.recent)  # number of the first window kept
        cover = ways.window_samples // ways.hop_samples + ways.smooth
        steps = np.arange(self.given, until)
        latest = self.windows - 1
        means = [
            self.recent[
                max(0, min(step - cover + 1, latest)) - first : min(step + ways.smooth, latest) + 1 - first
            ].mean(0)
            for step in steps
        ]
        self.given = until
        self.recent = self.recent[max(0, min(until - cover + 1, latest) - first) :]
        hop, ends = ways.hop_samples, np.minimum((steps + 1) * ways.hop_samples, self.heard)
        starts = self.origin + steps * hop / ways.rate
        ends = self.origin + ends / ways.rate
        self.spoke = True
        given = [slice(n, n + 1) for n in range(len(steps))]  # one by one, so that no answer depends on the pieces
        all = np.stack(means)
        return [Timeline(self.name, self.facts.labels, starts[n], ends[n], all[n], self.dated) for n in given]

    def state(self) -> bytes:
        """All that was heard and is still needed."""
        values, arrays = self.resampler.state()
        own = {name: getattr(self, name) for name in KEPT}
        return pack(
            self.kind,
            {"resampler": values, **own},
            {**arrays, "waiting": self.waiting, "recent": self.recent},
        )

    def restore(self, state: bytes) -> None:
        """Go on from state()."""
        values, arrays = unpack(self.kind, state)
        self.resampler.restore(values.pop("resampler"), arrays)
        for name, value in values.items():
            setattr(self, name, value)
        self.waiting, self.recent = arrays["waiting"], arrays["recent"]
