"""Which of four ways computes an LSTM call, and why: the one place that decides, and the record of its decisions.

native     the C++ kernels: float32 on the CPU, every variant of the cell, ragged or not, either direction; bfloat16 and
           autocast too, widened at the door, where the kernels multiply bfloat16 or torch has only its loop
torch      torch.nn.LSTM's own operators: the plain or projected cell on other devices (cuDNN) and in other dtypes
triton     kernels for a GPU: variants and ragged rows there, where the package triton is installed
reference  the Python loop: variants in what is left; and everything that must be differentiable in ways no kernel is
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack  # pyright: ignore
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

from . import native, threads
from .cells import Variant, Weights

Backend = Literal["native", "torch", "triton", "reference"]


class Choice(NamedTuple):
    """A backend and the reason for it, in words."""

    backend: Backend
    reason: str
    bfloat16: bool = False  # x, state and weights are widened to float32 at the door, and what goes out is rounded


NATIVE = Choice("native", "float32 on the CPU")
NATIVE_BFLOAT16 = Choice("native", "bfloat16 on the CPU, sums and state in float32", True)
OPERATOR = Choice("native", "float32 on the CPU, as the operator holdfast::lstm")
OPERATOR_BFLOAT16 = Choice("native", "bfloat16 on the CPU, as the operator holdfast::lstm", True)
TANGENTS = Choice("reference", "forward-mode differentiation is active")
SECOND_ORDER = Choice("reference", "the gradient of a gradient, or its tangent")

_ORDINARY = (Tensor, Parameter)
_calls: Counter[Choice] = Counter()


def choose(x: Tensor, weights: Weights, lengths: Tensor | None, variant: Variant) -> Choice:
    """The backend for one layer and direction."""
    # What torch.nn.LSTM knows too: W, R, a bias and a projection.
    torchs_own = variant.is_plain() and weights.input is not None and all(t is None for t in weights[4:])
    in_a_loop = lengths is not None or not torchs_own or weights.projection is not None
    choice = choose_for_stack(x, weights.recurrent, in_a_loop)
    if choice.backend == "torch" and (lengths is not None or not torchs_own):
        return choose_loop(x, weights, choice.reason)
    return choice


def choose_loop(x: Tensor, weights: Weights, reason: str) -> Choice:
    """Triton's kernels or the reference, for what neither the native kernels nor torch's operator can take."""
    if x.device.type not in _TRITON_DEVICES:
        return Choice("reference", reason)
    obstacle = triton_obstacle(x, weights)
    return Choice("triton", reason) if obstacle is None else Choice("reference", f"{reason}, {obstacle}")


_TRITON_DEVICES = ("cuda",)  # NVIDIA's and, as torch calls them too, AMD's
_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def triton_obstacle(x: Tensor, weights: Weights) -> str | None:
    """Why Triton's kernels cannot take a call on a GPU; None where they can."""
    if not is_ordinary(x, weights.recurrent):
        return "where a compiler or a transform is at work"
    if x.dtype not in _TRITON_DTYPES or weights.recurrent.dtype not in _TRITON_DTYPES:
        return f"in {x.dtype}, which the Triton kernels do not have".replace("torch.", "")
    if any(t is not None for t in weights[5:]):
        return "for whose normalised cell there is no Triton kernel"
    return None if has_triton() else "where the package triton is not installed"


@cache
def has_triton() -> bool:
    """Whether the package is there. Not imported before it is needed: that takes a second."""
    return find_spec("triton") is not None


def choose_for_stack(x: Tensor, weight: Tensor, in_a_loop: bool) -> Choice:
    """The backend for a whole stack of layers, by its first. torch's operator takes a stack in one piece.

    `in_a_loop`: torch has no fast operator for it, but a loop over the steps: ragged rows, projections.
    """
    half = asks_for_bfloat16(x, weight)
    if tangents_are_possible():
        return TANGENTS._replace(bfloat16=half)
    obstacle = bfloat16_obstacle(x, in_a_loop) if half else native_obstacle(x, weight)
    if obstacle is None and is_ordinary(x, weight):
        return NATIVE_BFLOAT16 if half else NATIVE
    if obstacle is None:
        return OPERATOR_BFLOAT16 if half else OPERATOR
    transformed = not is_compiling() and _are_functorch_transforms_active()
    return Choice("reference" if transformed else "torch", obstacle)


def count(choice: Choice, calls: int = 1) -> None:
    """Enter a decision into the report. The operator enters its own calls: a compiler decides once for many."""
    if choice is not OPERATOR and choice is not OPERATOR_BFLOAT16 and not is_compiling():
        _calls[choice] += calls


def count_operator(bfloat16: bool) -> None:
    """Enter one run of the operator into the report."""
    _calls[OPERATOR_BFLOAT16 if bfloat16 else OPERATOR] += 1


def tangents_are_possible() -> bool:
    """Whether forward-mode derivatives may be asked for, which neither the kernels nor torch's operator have."""
    return forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


def is_ordinary(x: Tensor, w_input: Tensor) -> bool:
    """Whether these are tensors with numbers in memory and nobody between them and the kernels.

    Not so: a compiler's or an export's stand-ins, torch.func's wrappers, subclasses, dispatch modes.
    """
    return (
        not is_compiling()
        and type(x) in _ORDINARY
        and type(w_input) in _ORDINARY
        and not _are_functorch_transforms_active()
        and not _len_torch_dispatch_stack()
    )


_ROUNDABLE = (torch.float32, torch.bfloat16)


def asks_for_bfloat16(x: Tensor, weight: Tensor) -> bool:
    """Whether torch would compute this in bfloat16: a module of that dtype, or any under autocast."""
    if not x.is_cpu:
        return False
    if torch.is_autocast_enabled("cpu"):
        roundable = x.dtype in _ROUNDABLE and weight.dtype in _ROUNDABLE
        return roundable and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == weight.dtype == torch.bfloat16


def bfloat16_obstacle(x: Tensor, in_a_loop: bool) -> str | None:
    """Why the native kernels had better not take a call in bfloat16; None where they do.

    On a CPU without products of bfloat16 they would run in float32, at float32's speed, which is more than torch's
    loop has; but whether it is more than torch's own operator has on such a CPU, nobody has measured.
    """
    if not native.available():
        return native.why_not()
    if in_a_loop or native.multiplies_bfloat16():
        return None
    return "bfloat16, which the kernels do not multiply on this CPU"


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
    report = Report(isa, threads.allowed(), dict(_calls))
    if reset:
        _calls.clear()
    return report
