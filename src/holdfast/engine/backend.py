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
from .cells import Variant, Weights

Backend = Literal["native", "torch", "reference"]


class Choice(NamedTuple):
    """A backend and the reason for it, in words."""

    backend: Backend
    reason: str


NATIVE = Choice("native", "float32 on the CPU")
TRANSFORM = Choice("reference", "a torch.func transform or forward-mode differentiation is active")

_calls: Counter[Choice] = Counter()


def choose(x: Tensor, weights: Weights, lengths: Tensor | None, variant: Variant) -> Choice:
    """The backend for one layer and direction."""
    if transforms_are_active():
        return TRANSFORM
    obstacle = native_obstacle(x, weights.recurrent)
    if obstacle is None:
        return NATIVE
    # torch's operator where it does the same; it has neither ragged lengths nor variants.
    plain = variant.is_plain() and weights.input is not None and weights.peephole is None and weights.gain_h is None
    return Choice("torch" if plain and lengths is None else "reference", obstacle)


def choose_for_stack(x: Tensor, w_input: Tensor) -> Choice:
    """The backend for a whole stack of layers, by its first. torch's operator takes a stack in one piece."""
    if transforms_are_active():
        return TRANSFORM
    obstacle = native_obstacle(x, w_input)
    return NATIVE if obstacle is None else Choice("torch", obstacle)


def count(choice: Choice, calls: int = 1) -> None:
    """Enter a decision into the report."""
    _calls[choice] += calls


def transforms_are_active() -> bool:
    """Whether derivatives are asked for that neither the kernels nor torch's operator have."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


def native_obstacle(x: Tensor, weight: Tensor) -> str | None:
    """Why the native kernels cannot take this call; None where they can."""
    if not x.is_cpu:
        return f"the input is on {x.device.type}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"the input is {x.dtype}".replace("torch.", "")
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return None if native.available() else native.why_not()


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
