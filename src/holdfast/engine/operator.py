"""The kernels as operators of torch: what torch.compile, torch.export and torch.func see in place of a Python function.

    holdfast::lstm            one layer and direction of any cell: y, h, c
    holdfast::lstm_keeping    the same, and what its backward pass needs
    holdfast::lstm_backward   the gradients

The second and third are the first one's derivative and nobody else's business: an exported program holds the first
alone. Here are what they compute and the shapes of it; how they are differentiated and run for many samples at once
stands in derivatives.py. Ordinary calls do not come here, since the way through torch's dispatcher costs more than a
short sequence (functional.py).
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from . import native, second_order
from .backend import count_operator
from .cells import State, Variant, Weights, Zoneout, seed_tensor

Outputs = tuple[Tensor, Tensor, Tensor]  # y, h, c
Kept = tuple[Tensor, Tensor, Tensor, Tensor]  # and what the backward pass needs

_TENSORS: Final = (
    "Tensor x, Tensor? h0, Tensor? c0, Tensor? w_input, Tensor w_recurrent, Tensor? bias, Tensor? projection, "
    "Tensor? peephole, Tensor? gain_x, Tensor? gain_h, Tensor? gain_c, Tensor? bias_c, "  # so far with a gradient
    "Tensor? lengths, Tensor? h_mask, Tensor? seed"
)
_OPTIONS: Final = (
    "bool reverse, bool bfloat16, bool coupled, bool exponential, float zoneout_h, float zoneout_c, float epsilon"
)
LIBRARY: Final = torch.library.Library("holdfast", "DEF")
LIBRARY.define(f"lstm({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(f"lstm_keeping({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(  # a gradient that is not there, or that of x which is not needed, is an empty tensor
    f"lstm_backward(Tensor? dy, Tensor? dh, Tensor? dc, Tensor y, Tensor kept, bool need_x, {_TENSORS}, {_OPTIONS})"
    f" -> ({', '.join(['Tensor'] * 12)})"
)

lstm: Final = torch.ops.holdfast.lstm.default
keeping: Final = torch.ops.holdfast.lstm_keeping.default
backward: Final = torch.ops.holdfast.lstm_backward.default

WITH_GRADIENT: Final = 12  # the first so many arguments of a call
TENSORS: Final = 15
BEFORE_CALL: Final = 6  # arguments of lstm_backward before those of the call


class Call(NamedTuple):
    """The arguments of one call, in the operators' order."""

    x: Tensor  # [time, batch, features], or [sum of lengths, features] as in torch's PackedSequence
    h0: Tensor | None  # [batch, width of h]
    c0: Tensor | None  # [batch, hidden], of the exponential cell [3, batch, hidden]
    w_input: Tensor | None  # and the rest of Weights
    w_recurrent: Tensor
    bias: Tensor | None
    projection: Tensor | None
    peephole: Tensor | None
    gain_x: Tensor | None
    gain_h: Tensor | None
    gain_c: Tensor | None
    bias_c: Tensor | None
    lengths: Tensor | None  # [batch]
    h_mask: Tensor | None  # [batch, width of h]
    seed: Tensor | None  # int64 []: a number would be another program for every draw
    reverse: bool
    bfloat16: bool
    coupled: bool
    exponential: bool
    zoneout_h: float
    zoneout_c: float
    epsilon: float

    @property
    def weights(self) -> Weights:
        return Weights(*self[3:WITH_GRADIENT])  # pyright: ignore[reportArgumentType]

    @property
    def variant(self) -> Variant:
        zoneout = Zoneout(self.zoneout_h, self.zoneout_c, self.seed)
        return Variant(self.coupled, self.exponential, self.h_mask, zoneout, self.epsilon)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        batch = self.x.shape[1] if self.lengths is None else self.lengths.shape[0]
        memory = (batch, self.w_recurrent.shape[0] // 4)
        return (batch, self.w_recurrent.shape[1]), (3, *memory) if self.exponential else memory

    @property
    def room(self) -> int:
        """How many floats the backward pass needs at most: see kept_floats in kernels/layout.h.

        The kernels need less where rows are ragged or registers shorter than sixteen floats, but a compiler must know
        beforehand, and what it compiled may be found in its cache by another machine.
        """
        row_steps = self.x.shape[0] if self.x.dim() == 2 else self.x.shape[0] * self.x.shape[1]
        normalised = self.gain_h is not None
        each = 7 if self.exponential else 14 if normalised else 5
        units = self.w_recurrent.shape[0] // 4
        return 64 + row_steps * (each * ((units + 15) // 16 * 16) + (3 if normalised else 0))

    def by_reference(self) -> Outputs:
        """y, h and c by the reference, differentiable in every way."""
        return second_order.forward(self.x, self.h0, self.c0, self.weights, self.lengths, self.reverse, self.variant)


def call_of(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant,
    bfloat16: bool,
) -> Call:
    """The operators' arguments for those of `functional.run`."""
    h0, c0 = (None, None) if state is None else state
    zoneout = variant.zoneout
    seed = None if zoneout.seed is None else seed_tensor(zoneout.seed)
    options = (reverse, bfloat16, variant.coupled, variant.exponential, zoneout.h, zoneout.c, variant.epsilon)
    return Call(x, h0, c0, *weights, lengths, variant.h_mask, seed, *options)


# The numbers: what runs on a CPU.


def _forward(call: Call, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    count_operator(call.bfloat16)
    return native.forward(
        call.x,
        call.weights,
        call.h0,
        call.c0,
        call.lengths,
        reverse=call.reverse,
        keep=keep,
        variant=call.variant,
        bfloat16=call.bfloat16,
        room=call.room if keep else 0,
    )


def _run(*arguments: Any) -> Outputs:
    return _forward(Call(*arguments), keep=False)[:3]


def _run_keeping(*arguments: Any) -> Kept:
    call = Call(*arguments)
    y, h, c, kept = _forward(call, keep=True)
    if kept is None or kept.numel() != call.room:
        raise RuntimeError(f"the kernels keep more than the {call.room} floats that the operator promises")
    return y, h, c, kept


def _run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    dy, dh, dc, y, kept, need_x = arguments[:BEFORE_CALL]
    call = Call(*arguments[BEFORE_CALL:])
    found = native.backward(
        (dy, dh, dc),
        call.x,
        call.weights,
        call.h0,
        call.c0,
        call.lengths,
        y,
        kept,
        reverse=call.reverse,
        need_x=need_x,
        variant=call.variant,
        bfloat16=call.bfloat16,
    )
    given = (found.x, found.h0, found.c0, *found.weights)
    return tuple(_nothing(call.x) if t is None else t for t in given)


def _nothing(x: Tensor) -> Tensor:
    return x.new_empty(0)


LIBRARY.impl("lstm", _run, "CPU")
LIBRARY.impl("lstm_keeping", _run_keeping, "CPU")
LIBRARY.impl("lstm_backward", _run_backward, "CPU")


# The shapes alone, for tensors without numbers.


def _shapes(*arguments: Any) -> Outputs:
    call = Call(*arguments)
    h, c = call.state_shapes
    return native.like(call.x, h[1]), call.x.new_empty(h), call.x.new_empty(c)


def _shapes_keeping(*arguments: Any) -> Kept:
    call = Call(*arguments)
    return *_shapes(*arguments), call.x.new_empty(call.room)


def _shapes_backward(*arguments: Any) -> tuple[Tensor, ...]:
    need_x, call = arguments[BEFORE_CALL - 1], Call(*arguments[BEFORE_CALL:])
    x, bias = call.x, call.w_recurrent.shape[:1]
    dx = native.like(x, x.shape[-1]) if need_x else _nothing(x)
    weights = [None if t is None else t.shape for t in call.weights._replace(bias=None)]
    weights[2] = bias  # made in any case
    return dx, *(_nothing(x) if shape is None else x.new_empty(shape) for shape in (*call.state_shapes, *weights))


torch.library.register_fake("holdfast::lstm", _shapes, lib=LIBRARY)
torch.library.register_fake("holdfast::lstm_keeping", _shapes_keeping, lib=LIBRARY)
torch.library.register_fake("holdfast::lstm_backward", _shapes_backward, lib=LIBRARY)
