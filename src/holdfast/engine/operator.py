"""The kernels as operators of torch: what torch.compile, torch.export and torch.func see in place of a Python function.

    holdfast::lstm            one layer and direction: y, h, c
    holdfast::lstm_keeping    the same, and what its backward pass needs
    holdfast::lstm_backward   the gradients

The second and third are the first one's derivative and nobody else's business: an exported program holds the first
alone. Ordinary calls do not come here, since the way through torch's dispatcher costs more than a short sequence
(functional.py).

Rules of the second kind are the reference's: the gradient of a gradient, and every forward-mode derivative. torch itself
would give a tangent of zeros, silently, where an operator has none.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function

from . import native, reference
from .backend import SECOND_ORDER, count, count_operator, tangents_are_possible
from .reference import State, Weights

Outputs = tuple[Tensor, Tensor, Tensor]
Kept = tuple[Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

_ARGUMENTS: Final = (
    "Tensor x, Tensor w_input, Tensor w_recurrent, Tensor? bias, Tensor? h0, Tensor? c0, Tensor? lengths"
)
_LIBRARY: Final = torch.library.Library("holdfast", "DEF")
_LIBRARY.define(f"lstm({_ARGUMENTS}, bool reverse) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(f"lstm_keeping({_ARGUMENTS}, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"lstm_backward(Tensor? dy, Tensor? dh, Tensor? dc, {_ARGUMENTS}, Tensor y, Tensor kept, bool reverse, bool need_x)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

lstm: Final = torch.ops.holdfast.lstm.default
_keeping: Final = torch.ops.holdfast.lstm_keeping.default
_backward: Final = torch.ops.holdfast.lstm_backward.default


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
    def batch(self) -> int:
        return self.x.shape[1] if self.lengths is None else self.lengths.shape[0]

    @property
    def room(self) -> int:
        """How many floats the backward pass needs at most: five for every unit, in registers of up to 16, and a header.

        The kernels need less where rows are ragged or registers shorter, but a compiler must know beforehand, and what
        it compiled may be found in its cache by another machine.
        """
        row_steps = self.x.shape[0] if self.x.dim() == 2 else self.x.shape[0] * self.x.shape[1]
        return 64 + row_steps * 5 * ((self.w_recurrent.shape[1] + 15) // 16 * 16)

    def state(self) -> State | None:
        if self.h0 is None and self.c0 is None:
            return None
        zeros = self.x.new_zeros(self.batch, self.w_recurrent.shape[1])
        return State(zeros if self.h0 is None else self.h0, zeros if self.c0 is None else self.c0)


# The numbers: what runs on a CPU.


def _run(*arguments: Any) -> Outputs:
    count_operator()
    y, h, c, _ = native.forward(*arguments[:7], reverse=arguments[7], keep=False)
    return y, h, c


def _run_keeping(*arguments: Any) -> Kept:
    count_operator()
    room = Inputs(*arguments[:7]).room
    y, h, c, kept = native.forward(*arguments[:7], reverse=arguments[7], keep=True, room=room)
    assert kept is not None and len(kept) == room, "the kernels keep more than the operator's shapes say"
    return y, h, c, kept


def _run_backward(*arguments: Any) -> Gradients:
    dy, dh, dc, x, w, r, _, h0, c0, lengths, y, kept, reverse, need_x = arguments
    dx, *rest = native.backward(dy, dh, dc, x, w, r, h0, c0, lengths, y, kept, reverse=reverse, need_x=need_x)
    return x.new_empty(0) if dx is None else dx, *rest  # pyright: ignore[reportReturnType]


_LIBRARY.impl("lstm", _run, "CPU")
_LIBRARY.impl("lstm_keeping", _run_keeping, "CPU")
_LIBRARY.impl("lstm_backward", _run_backward, "CPU")


# The shapes alone, for tensors without numbers.


@torch.library.register_fake("holdfast::lstm", lib=_LIBRARY)
def _(*arguments: Any) -> Outputs:
    given = Inputs(*arguments[:7])
    units = given.w_recurrent.shape[1]
    return native.like(given.x, units), *(given.x.new_empty((given.batch, units)) for _ in range(2))  # pyright: ignore[reportReturnType]


@torch.library.register_fake("holdfast::lstm_keeping", lib=_LIBRARY)
def _(*arguments: Any) -> Kept:
    return *lstm(*arguments), arguments[0].new_empty(Inputs(*arguments[:7]).room)


@torch.library.register_fake("holdfast::lstm_backward", lib=_LIBRARY)
def _(*arguments: Any) -> Gradients:
    x, w, r = arguments[3:6]
    given = Inputs(*arguments[3:10])
    dx = native.like(x, x.shape[-1]) if arguments[-1] else x.new_empty(0)
    state = (given.batch, r.shape[1])
    return dx, x.new_empty(w.shape), x.new_empty(r.shape), x.new_empty(w.shape[0]), x.new_empty(state), x.new_empty(state)


# The derivatives.


def _autograd(*arguments: Any) -> Outputs:
    if tangents_are_possible():
        return _reference(Inputs(*arguments[:7]), arguments[7])
    if _wants_gradient(arguments):
        return _keeping(*arguments)[:3]
    with _below_autograd():
        return lstm(*arguments)


def _autograd_keeping(*arguments: Any) -> Kept:
    if tangents_are_possible():
        raise NotImplementedError("holdfast::lstm_keeping has no forward-mode derivative; that of holdfast::lstm has")
    if _wants_gradient(arguments):
        with enable_single_level_autograd_function():
            return _Keeping.apply(*arguments)
    with _below_autograd():
        return _keeping(*arguments)


def _autograd_backward(*arguments: Any) -> Gradients:
    if tangents_are_possible():
        raise NotImplementedError("holdfast::lstm_backward has no forward-mode derivative; that of holdfast::lstm has")
    if _wants_gradient(arguments):
        with enable_single_level_autograd_function():
            return _Backward.apply(*arguments)
    with _below_autograd():
        return _backward(*arguments)


def _wants_gradient(arguments: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


_below_autograd: Final = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage]
_LIBRARY.impl("lstm", _autograd, "Autograd")
_LIBRARY.impl("lstm_keeping", _autograd_keeping, "Autograd")
_LIBRARY.impl("lstm_backward", _autograd_backward, "Autograd")


class _Keeping(torch.autograd.function._SingleLevelFunction):  # pyright: ignore[reportPrivateUsage]
    """holdfast::lstm_keeping as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Kept:
        with torch.enable_grad(), _below_autograd():  # the transforms around this one, if any, have their own graphs
            y, h, c, kept = _keeping(*arguments)
        ctx.save_for_backward(*arguments[:7], y, kept)
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)
        ctx.reverse = arguments[7]
        return y, h, c, kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, y, kept = ctx.saved_tensors
        given, wanted = Inputs(*inputs), ctx.needs_input_grad
        if tangents_are_possible():
            found = pull_back(grads[:3], given, ctx.reverse)
        else:
            found = _backward(*grads[:3], *given, y, kept, ctx.reverse, wanted[0])
        return *(d if want else None for d, want in zip(found, wanted[:6], strict=True)), None, None


class _Backward(torch.autograd.function._SingleLevelFunction):
    """holdfast::lstm_backward as a node of the graph: its own gradient is that of the reference's gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Gradients:
        with torch.enable_grad(), _below_autograd():
            found = _backward(*arguments)
        ctx.save_for_backward(*arguments[:10])
        ctx.set_materialize_grads(False)
        ctx.reverse = arguments[12]
        return found

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor | None, ...] = ctx.saved_tensors
        places = [n for n in range(9) if saved[n] is not None]

        def gradients(*values: Tensor) -> tuple[Tensor, ...]:
            all_of_them = list(saved)
            for n, value in zip(places, values, strict=True):
                all_of_them[n] = value
            found = pull_back(all_of_them[:3], Inputs(*all_of_them[3:]), ctx.reverse)  # pyright: ignore[reportArgumentType]
            return tuple(d for d, second in zip(found, seconds, strict=True) if d is not None and second is not None)

        _, pull = torch.func.vjp(gradients, *(saved[n] for n in places))
        present = [second for n, second in enumerate(seconds) if second is not None and saved[3 + n] is not None]
        found = dict(zip(places, pull(tuple(present)), strict=True))
        return tuple(found.get(n) for n in range(14))


def _reference(given: Inputs, reverse: bool) -> Outputs:
    run = reference.lstm_packed if given.x.dim() == 2 else reference.lstm
    y, last = run(given.x, Weights(*given[1:4]), given.state(), lengths=given.lengths, reverse=reverse)  # pyright: ignore[reportArgumentType]
    return y, last.h, last.c


def pull_back(grads: Sequence[Tensor | None], given: Inputs, reverse: bool) -> tuple[Tensor | None, ...]:
    """The gradients of x, w_input, w_recurrent, bias, h0 and c0 by the reference: differentiable in every way.

    None for an input that was None.
    """
    count(SECOND_ORDER)
    places = [n for n in range(6) if given[n] is not None]

    def run(*values: Tensor) -> Outputs:
        return _reference(given._replace(**{given._fields[n]: v for n, v in zip(places, values, strict=True)}), reverse)

    outputs, pull = torch.func.vjp(run, *(given[n] for n in places))
    full = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, grads, strict=True))
    found = dict(zip(places, pull(full), strict=True))
    return tuple(found.get(n) for n in range(6))


# Many at once: torch.vmap.


def _one_after_another(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The rule that is always right: a call for every sample."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        samples = range(info.batch_size)
        each = [
            operator(*(a if d is None else a.select(d, n) for a, d in zip(arguments, in_dims, strict=True)))
            for n in samples
        ]
        outputs = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return outputs, (0,) * len(outputs)

    return rule


def _rows_of_one_batch(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """With weights that all samples share the samples are rows of one larger batch."""
    x, w, r, b, h0, c0, lengths, reverse = arguments
    packed = x.dim() - (in_dims[0] is not None) == 2
    if packed or any(dim is not None for dim in in_dims[1:4]):
        return _one_after_another(lstm)(info, in_dims, *arguments)
    samples = info.batch_size

    def rows(t: Tensor | None, place: int, axis: int) -> Tensor | None:
        if t is None:
            return None
        dim = in_dims[place]
        t = t.unsqueeze(axis).expand(*t.shape[:axis], samples, *t.shape[axis:]) if dim is None else t.movedim(dim, axis)
        return t.flatten(axis, axis + 1)

    y, h, c = lstm(rows(x, 0, 1), w, r, b, rows(h0, 4, 0), rows(c0, 5, 0), rows(lengths, 6, 0), reverse)
    shape = (samples, h.shape[0] // samples)
    return (y.unflatten(1, shape), h.unflatten(0, shape), c.unflatten(0, shape)), (1, 0, 0)


torch.library.register_vmap("holdfast::lstm", _rows_of_one_batch, lib=_LIBRARY)
torch.library.register_vmap("holdfast::lstm_keeping", _one_after_another(_keeping), lib=_LIBRARY)
torch.library.register_vmap("holdfast::lstm_backward", _one_after_another(_backward), lib=_LIBRARY)
