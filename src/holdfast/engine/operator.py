"""The kernels as operators of torch: what torch.compile, torch.export and torch.func see in place of a Python function.

    holdfast::lstm            one layer and direction: y, h, c
    holdfast::lstm_keeping    the same, and what its backward pass needs
    holdfast::lstm_backward   the gradients

The second and third are the first one's derivative and nobody else's business: an exported program holds the first
alone. Ordinary calls do not come here, since the way through torch's dispatcher costs more than a short sequence
(functional.py).

Derivatives of the second kind are the reference's: the gradient of a gradient, and every forward-mode one. torch itself
would take the tangent of an operator that has no rule for it to be zero, and say nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction  # pyright: ignore[reportPrivateUsage]

from . import native, second_order
from .backend import count_operator, tangents_are_possible
from .cells import Weights
from .second_order import filled

Outputs = tuple[Tensor, Tensor, Tensor]  # y, h, c
Kept = tuple[Tensor, Tensor, Tensor, Tensor]  # and what the backward pass needs
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # of x, w_input, w_recurrent, bias, h0, c0

_INPUTS: Final = "Tensor x, Tensor w_input, Tensor w_recurrent, Tensor? bias, Tensor? h0, Tensor? c0, Tensor? lengths"
_LIBRARY: Final = torch.library.Library("holdfast", "DEF")
_LIBRARY.define(f"lstm({_INPUTS}, bool reverse) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(f"lstm_keeping({_INPUTS}, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"lstm_backward(Tensor? dy, Tensor? dh, Tensor? dc, {_INPUTS}, Tensor y, Tensor kept, bool reverse, bool need_x)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"  # that of x is empty where it is not needed
)

lstm: Final = torch.ops.holdfast.lstm.default
keeping: Final = torch.ops.holdfast.lstm_keeping.default
backward: Final = torch.ops.holdfast.lstm_backward.default


class Inputs(NamedTuple):
    """The tensors of one call, in the operators' order."""

    x: Tensor  # [time, batch, features], or [sum of lengths, features] as in torch's PackedSequence
    w_input: Tensor  # [4 * hidden, features]
    w_recurrent: Tensor  # [4 * hidden, hidden]
    bias: Tensor | None  # [4 * hidden]
    h0: Tensor | None  # [batch, hidden]
    c0: Tensor | None  # [batch, hidden]
    lengths: Tensor | None  # [batch]

    @property
    def state_shape(self) -> tuple[int, int]:
        batch = self.x.shape[1] if self.lengths is None else self.lengths.shape[0]
        return batch, self.w_recurrent.shape[1]

    @property
    def room(self) -> int:
        """How many floats the backward pass needs at most: five for every unit, in registers of up to 16, and a header.

        The kernels need less where rows are ragged or registers shorter, but a compiler must know beforehand, and what
        it compiled may be found in its cache by another machine.
        """
        row_steps = self.x.shape[0] if self.x.dim() == 2 else self.x.shape[0] * self.x.shape[1]
        return 64 + row_steps * 5 * ((self.w_recurrent.shape[1] + 15) // 16 * 16)

    def by_reference(self, reverse: bool) -> Outputs:
        """y, h and c by the reference, differentiable in every way."""
        weights = Weights(self.w_input, self.w_recurrent, self.bias)
        return second_order.forward(self.x, self.h0, self.c0, weights, self.lengths, reverse)


# The numbers: what runs on a CPU.


def _run(*arguments: Any) -> Outputs:
    count_operator()
    x, w, r, b, h0, c0, lengths, reverse = arguments
    y, h, c, _ = native.forward(x, Weights(w, r, b), h0, c0, lengths, reverse=reverse, keep=False)
    return y, h, c


def _run_keeping(*arguments: Any) -> Kept:
    count_operator()
    x, w, r, b, h0, c0, lengths, reverse = arguments
    room = Inputs(*arguments[:7]).room
    y, h, c, kept = native.forward(x, Weights(w, r, b), h0, c0, lengths, reverse=reverse, keep=True, room=room)
    if kept is None or kept.numel() != room:
        raise RuntimeError(f"the kernels keep more than the {room} floats that the operator promises")
    return y, h, c, kept


def _run_backward(*arguments: Any) -> Gradients:
    dy, dh, dc, x, w, r, b, h0, c0, lengths, y, kept, reverse, need_x = arguments
    weights = Weights(w, r, b)
    found = native.backward((dy, dh, dc), x, weights, h0, c0, lengths, y, kept, reverse=reverse, need_x=need_x)
    assert found.weights.input is not None and found.weights.bias is not None
    dx = x.new_empty(0) if found.x is None else found.x
    return dx, found.weights.input, found.weights.recurrent, found.weights.bias, found.h0, found.c0


_LIBRARY.impl("lstm", _run, "CPU")
_LIBRARY.impl("lstm_keeping", _run_keeping, "CPU")
_LIBRARY.impl("lstm_backward", _run_backward, "CPU")


# The shapes alone, for tensors without numbers.


def _shapes(*arguments: Any) -> Outputs:
    given = Inputs(*arguments[:7])
    x, state = given.x, given.state_shape
    return native.like(x, state[1]), x.new_empty(state), x.new_empty(state)


def _shapes_keeping(*arguments: Any) -> Kept:
    given = Inputs(*arguments[:7])
    return *_shapes(*arguments), given.x.new_empty(given.room)


def _shapes_backward(*arguments: Any) -> Gradients:
    given = Inputs(*arguments[3:10])
    x, w, r, state = given.x, given.w_input, given.w_recurrent, given.state_shape
    dx = native.like(x, x.shape[-1]) if arguments[-1] else x.new_empty(0)
    dw, dr, db = (x.new_empty(shape) for shape in (w.shape, r.shape, w.shape[:1]))
    return dx, dw, dr, db, x.new_empty(state), x.new_empty(state)


torch.library.register_fake("holdfast::lstm", _shapes, lib=_LIBRARY)
torch.library.register_fake("holdfast::lstm_keeping", _shapes_keeping, lib=_LIBRARY)
torch.library.register_fake("holdfast::lstm_backward", _shapes_backward, lib=_LIBRARY)


# The derivatives.

_below_autograd: Final = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage]


def _autograd(*arguments: Any) -> Outputs:
    if tangents_are_possible():
        return Inputs(*arguments[:7]).by_reference(arguments[7])
    if _wants_gradient(arguments):
        return keeping(*arguments)[:3]
    with _below_autograd():
        return lstm(*arguments)


def _autograd_of(operator: Any, node: Any) -> Callable[..., Any]:
    """The rule for the other two operators, which have no forward-mode derivative of their own."""

    def rule(*arguments: Any) -> Any:
        if tangents_are_possible():
            raise NotImplementedError(f"{operator} has no forward-mode derivative; that of holdfast::lstm has")
        if _wants_gradient(arguments):
            with enable_single_level_autograd_function():  # one transform of torch.func at a time comes by here
                return node.apply(*arguments)
        with _below_autograd():
            return operator(*arguments)

    return rule


def _wants_gradient(arguments: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


class _Keeping(_SingleLevelFunction):
    """holdfast::lstm_keeping as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Kept:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), _below_autograd():  # further transforms around this one keep graphs of their own
            y, h, c, kept = keeping(*arguments)
        ctx.save_for_backward(*arguments[:7], y, kept)
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)  # a gradient nobody asked for stays None and costs nothing
        ctx.reverse = arguments[7]
        return y, h, c, kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        *inputs, y, kept = ctx.saved_tensors
        given, wanted = Inputs(*inputs), ctx.needs_input_grad
        if tangents_are_possible():
            found = pull_back(grads[:3], given, ctx.reverse)
        else:
            found = backward(*grads[:3], *given, y, kept, ctx.reverse, wanted[0])
        return *(d if want else None for d, want in zip(found, wanted[:6], strict=True)), None, None


class _Backward(_SingleLevelFunction):
    """holdfast::lstm_backward as a node of the graph: its own gradient is that of the reference's gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), _below_autograd():
            found = backward(*arguments)
        ctx.save_for_backward(*arguments[:10])
        ctx.set_materialize_grads(False)
        ctx.reverse = arguments[12]
        return found

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        saved: list[Tensor | None] = list(ctx.saved_tensors)  # dy, dh, dc, then the Inputs
        places = [n for n in range(9) if saved[n] is not None]
        asked = [n for n in range(6) if seconds[n] is not None and saved[3 + n] is not None]

        def gradients(*values: Tensor) -> tuple[Tensor | None, ...]:
            now = filled(saved, places, values)
            found = pull_back(now[:3], Inputs(*now[3:]), ctx.reverse)  # pyright: ignore[reportArgumentType]
            return tuple(found[n] for n in asked)

        pull: Any = torch.func.vjp(gradients, *(saved[n] for n in places))[1]
        return tuple(filled([None] * 14, places, pull(tuple(seconds[n] for n in asked))))


def pull_back(grads: Sequence[Tensor | None], given: Inputs, reverse: bool) -> tuple[Tensor | None, ...]:
    """The gradients of x, w_input, w_recurrent, bias, h0 and c0 by the reference: differentiable in every way.

    `grads` are those of y, h and c, None for zero. The gradient of an input that was None is None.
    """
    x, w, r, b, h0, c0, lengths = given
    dx, dh0, dc0, dw, dr, db, *_ = second_order.pull_back(grads, (x, h0, c0, *Weights(w, r, b)), lengths, reverse)
    return dx, dw, dr, db, dh0, dc0


_LIBRARY.impl("lstm", _autograd, "Autograd")
_LIBRARY.impl("lstm_keeping", _autograd_of(keeping, _Keeping), "Autograd")
_LIBRARY.impl("lstm_backward", _autograd_of(backward, _Backward), "Autograd")


# Many at once: torch.vmap. A rule gets the arguments and, for each, the axis of its samples, or None.


def _one_after_another(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The rule that is always right: a call for every sample."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        each = [
            operator(*(a if d is None else a.select(d, n) for a, d in zip(arguments, in_dims, strict=True)))
            for n in range(info.batch_size)
        ]
        outputs = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return outputs, (0,) * len(outputs)

    return rule


def _rows_of_one_batch(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """With weights that all samples share, the samples are rows of one larger batch."""
    x, w, r, b, h0, c0, lengths, reverse = arguments
    packed = x.dim() - (in_dims[0] is not None) == 2
    if packed or any(dim is not None for dim in in_dims[1:4]):
        return _one_after_another(lstm)(info, in_dims, *arguments)
    samples: int = info.batch_size

    def rows(t: Tensor | None, dim: int | None, axis: int) -> Tensor | None:
        if t is None:
            return None
        apart = t.movedim(dim, axis) if dim is not None else torch.stack([t] * samples, axis)
        return apart.flatten(axis, axis + 1)

    rest = (rows(t, dim, 0) for t, dim in zip((h0, c0, lengths), in_dims[4:7], strict=True))
    y, h, c = lstm(rows(x, in_dims[0], 1), w, r, b, *rest, reverse)
    shape = (samples, h.shape[0] // samples)
    return (y.unflatten(1, shape), h.unflatten(0, shape), c.unflatten(0, shape)), (1, 0, 0)


torch.library.register_vmap("holdfast::lstm", _rows_of_one_batch, lib=_LIBRARY)
torch.library.register_vmap("holdfast::lstm_keeping", _one_after_another(keeping), lib=_LIBRARY)
torch.library.register_vmap("holdfast::lstm_backward", _one_after_another(backward), lib=_LIBRARY)
