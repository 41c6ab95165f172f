"""Which of three ways computes an LSTM call, and why: the one place that decides, and the record of its decisions.

native     the C++ kernels: float32 on the CPU, the plain cell, ragged or not, either direction
torch      torch.nn.LSTM's own operators: other devices (cuDNN) and dtypes, projections, autocast
reference  the Python loop: everything that must be differentiable in ways no kernel is
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import native
from .reference import Weights

Backend = Literal["native", "torch", "reference"]


class Choice(NamedTuple):
    """A backend and the reason for it, in words."""

    backend: Backend
    reason: str


NATIVE = Choice("native", "float32 on the CPU")
TRANSFORM = Choice("reference", "a torch.func transform or forward-mode differentiation is active")

_calls: Counter[Choice] = Counter()


def choose(x: Tensor, weights: Weights, lengths: Tensor | None) -> Choice:
    """The backend for one layer and direction."""
    choice = transforms()
    if choice is None:
        choice = NATIVE if (obstacle := native_obstacle(x, weights)) is None else fallback(obstacle, lengths)
    _calls[choice] += 1
    return choice


def stack_choice(x: Tensor, weights: Weights, projection: int) -> Choice:
    """The backend for a whole stack of layers. What the kernels cannot take goes to torch's operator in one piece."""
    obstacle = "the layer has a projection" if projection else native_obstacle(x, weights)
    if obstacle is None:
        return NATIVE  # each layer is counted when it runs
    choice = Choice("torch", obstacle)
    _calls[choice] += 1
    return choice


def transforms() -> Choice | None:
    """The reference, where derivatives are asked for that neither kernels nor torch's operator have."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return TRANSFORM
    return None


def native_obstacle(x: Tensor, weights: Weights) -> str | None:
    """Why the native kernels cannot take this call; None where they can."""
    if x.device.type != "cpu":
        return f"the input is on {x.device.type}"
    if x.dtype != torch.float32 or weights.input.dtype != torch.float32:
        return f"the input is {x.dtype}".replace("torch.", "")
    if weights.projection is not None:
        return "the layer has a projection"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return None if native.available() else native.why_not()


def fallback(obstacle: str, lengths: Tensor | None) -> Choice:
    """torch's operator where it does the same; it has no ragged lengths."""
    return Choice("reference" if lengths is not None else "torch", obstacle)


@dataclass(frozen=True)
class Report:
    """What ran since the last reset."""

    isa: str  # the instruction set of the kernels, or why there are none
    threads: int
    calls: dict[Choice, int]  # one call is one layer and direction

    def __str__(self) -> str:
        lines = [f"native kernels: {self.isa}, {self.threads} threads"]
        often = sorted(self.calls.items(), key=lambda item: -item[1])
        lines += [f"{count:>8} calls  {choice.backend:<9}  {choice.reason}" for choice, count in often]
        return "\n".join(lines if self.calls else [*lines, "no LSTM has run yet"])


def backend_report(*, reset: bool = False) -> Report:
    """Which backend computed the LSTM calls so far, and why. ``reset`` starts counting anew."""
    isa = native.isa() if native.available() else f"none ({native.why_not()})"
    report = Report(isa, torch.get_num_threads(), dict(_calls))
    if reset:
        _calls.clear()
    return report
