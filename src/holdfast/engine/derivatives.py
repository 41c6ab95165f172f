"""How torch differentiates the operators of operator.py, and runs them for many samples at once.

Gradients are native. Derivatives of the second kind are the reference's: the gradient of a gradient, and every
forward-mode one. torch itself would take the tangent of an operator that has no rule for it to be zero, and say
nothing.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction  # pyright: ignore[reportPrivateUsage]

from . import second_order
from .backend import tangents_are_possible
from .operator import BEFORE_CALL, LIBRARY, TENSORS, WITH_GRADIENT, Call, Kept, Outputs, backward, keeping, lstm
from .second_order import filled

below_autograd: Final = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage]


def _autograd(*arguments: Any) -> Outputs:
    if tangents_are_possible():
        return Call(*arguments).by_reference()
    if wants_gradient(arguments):
        return keeping(*arguments)[:3]
    with below_autograd():
        return lstm(*arguments)


def autograd_of(operator: Any, node: Any) -> Callable[..., Any]:
    """The rule for an operator's derivatives, which have no forward-mode derivative of their own."""

    def rule(*arguments: Any) -> Any:
        if tangents_are_possible():
            raise NotImplementedError(f"{operator} has no forward-mode derivative; that of the forward pass has")
        if wants_gradient(arguments):
            with enable_single_level_autograd_function():  # one transform of torch.func at a time comes by here
                return node.apply(*arguments)
        with below_autograd():
            return operator(*arguments)

    return rule


def wants_gradient(arguments: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments)


class _Keeping(_SingleLevelFunction):
    """holdfast::lstm_keeping as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Kept:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():  # further transforms around this one keep graphs of their own
            y, h, c, kept = keeping(*arguments)
        ctx.save_for_backward(*arguments[:TENSORS], y, kept)
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)  # a gradient nobody asked for stays None and costs nothing
        ctx.options = arguments[TENSORS:]
        return y, h, c, kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        *tensors, y, kept = ctx.saved_tensors
        call, wanted = Call(*tensors, *ctx.options), ctx.needs_input_grad
        if tangents_are_possible():
            found = pull_back(grads[:3], call)
        else:
            found = backward(*grads[:3], y, kept, wanted[0], *call)
        inputs = zip(found, call[:WITH_GRADIENT], wanted[:WITH_GRADIENT], strict=True)
        flat = (d if want and t is not None else None for d, t, want in inputs)
        return *flat, *(None,) * (len(call) - WITH_GRADIENT)


class _Backward(_SingleLevelFunction):
    """holdfast::lstm_backward as a node of the graph: its own gradient is that of the reference's gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():
            found = backward(*arguments)
        call = arguments[BEFORE_CALL:]
        ctx.save_for_backward(*arguments[:3], *call[:TENSORS])
        ctx.set_materialize_grads(False)
        ctx.options = call[TENSORS:]
        return found

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        saved: list[Any] = list(ctx.saved_tensors)  # dy, dh, dc, then the call's
        places = [n for n in range(3 + WITH_GRADIENT) if saved[n] is not None]
        asked = [n for n in range(WITH_GRADIENT) if seconds[n] is not None and saved[3 + n] is not None]

        def gradients(*values: Tensor) -> tuple[Tensor | None, ...]:
            now: list[Any] = filled(saved, places, values)
            found = pull_back(tuple(now[:3]), Call(*now[3:], *ctx.options))
            return tuple(found[n] for n in asked)

        pull: Any = torch.func.vjp(gradients, *(saved[n] for n in places))[1]
        found = filled([None] * len(saved), places, pull(tuple(seconds[n] for n in asked)))
        return *found[:3], *(None,) * (BEFORE_CALL - 3), *found[3:], *(None,) * len(ctx.options)


def pull_back(grads: tuple[Tensor | None, ...], call: Call) -> tuple[Tensor | None, ...]:
    """The gradients of what may have one, in the order of the call, by the reference: differentiable in every way.

    `grads` are those of y, h and c, None for zero. The gradient of an input that was None is None.
    """
    return second_order.pull_back(grads, call[:WITH_GRADIENT], call.lengths, call.reverse, call.variant)


# Many at once: torch.vmap. A rule gets the arguments and, for each, the axis of its samples, or None.


def one_after_another(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
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
    """With weights that all samples share, the samples are rows of one larger batch.

    But where zoneout is drawn, which counts rows: every sample draws as it does alone.
    """
    call: Call = Call(*arguments)
    dims: Any = Call(*in_dims)  # pyright: ignore[reportArgumentType]
    packed = call.x.dim() - (dims.x is not None) == 2
    if packed or call.seed is not None or any(dim is not None for dim in dims.weights):
        return one_after_another(lstm)(info, in_dims, *arguments)
    samples: int = info.batch_size

    def rows(t: Tensor | None, dim: int | None, axis: int) -> Tensor | None:
        if t is None:
            return None
        apart = t.movedim(dim, axis) if dim is not None else torch.stack([t] * samples, axis)
        return apart.flatten(axis, axis + 1)

    memory = 1 if call.exponential else 0  # where c has its rows
    one = call._replace(
        x=rows(call.x, dims.x, 1),
        h0=rows(call.h0, dims.h0, 0),
        c0=rows(call.c0, dims.c0, memory),
        lengths=rows(call.lengths, dims.lengths, 0),
        h_mask=rows(call.h_mask, dims.h_mask, 0),
    )
    y, h, c = lstm(*one)
    shape = (samples, h.shape[0] // samples)
    return (y.unflatten(1, shape), h.unflatten(0, shape), c.unflatten(memory, shape)), (1, 0, memory)


LIBRARY.impl("lstm", _autograd, "Autograd")
LIBRARY.impl("lstm_keeping", autograd_of(keeping, _Keeping), "Autograd")
LIBRARY.impl("lstm_backward", autograd_of(backward, _Backward), "Autograd")
torch.library.register_vmap("holdfast::lstm", _rows_of_one_batch, lib=LIBRARY)
torch.library.register_vmap("holdfast::lstm_keeping", one_after_another(keeping), lib=LIBRARY)
torch.library.register_vmap("holdfast::lstm_backward", one_after_another(backward), lib=LIBRARY)
