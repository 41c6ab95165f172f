"""The fused loss as an operator of torch: for torch.compile, torch.export and torch.func, any number of tokens.

    holdfast::linear_cross_entropy           the loss
    holdfast::linear_cross_entropy_keeping   the same, and its gradients, which are made in the same pass
    holdfast::linear_cross_entropy_backward  those gradients times the outer one, in the dtypes of the inputs

As with holdfast::lstm the last two are the first one's derivative and nobody else's business, and derivatives of the
second kind and forward-mode ones are another's: here torch's, with the logits of all tokens.
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import _SingleLevelFunction  # pyright: ignore[reportPrivateUsage]
from torch.nn import functional

from holdfast.engine.backend import tangents_are_possible
from holdfast.engine.derivatives import autograd_of, below_autograd, one_after_another, wants_gradient
from holdfast.engine.second_order import filled
from holdfast.engine.softmax_native import Wanted

from .softmax_losses import Rule, losses_of, select

_ARGUMENTS: Final = (
    "Tensor h, Tensor weight, Tensor? bias, Tensor targets, int ignore_index, float smoothing, bool mean"
)
_LIBRARY: Final = torch.library.Library("holdfast", "FRAGMENT")
_LIBRARY.define(f"linear_cross_entropy({_ARGUMENTS}) -> Tensor")
_LIBRARY.define(  # a gradient that is not needed is an empty tensor
    f"linear_cross_entropy_keeping({_ARGUMENTS}, bool need_h, bool need_weight, bool need_bias)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    f"linear_cross_entropy_backward(Tensor factor, Tensor dh, Tensor dweight, Tensor dbias, {_ARGUMENTS})"
    " -> (Tensor, Tensor, Tensor)"
)

linear_cross_entropy: Final = torch.ops.holdfast.linear_cross_entropy.default
keeping: Final = torch.ops.holdfast.linear_cross_entropy_keeping.default
backward: Final = torch.ops.holdfast.linear_cross_entropy_backward.default


class Call(NamedTuple):
    """The arguments of one call, in the operators' order."""

    h: Tensor  # [tokens, width]
    weight: Tensor  # [vocabulary, width]
    bias: Tensor | None  # [vocabulary]
    targets: Tensor  # int64 [tokens]
    ignore_index: int
    smoothing: float
    mean: bool

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.h.dtype, torch.float32)

    def by_torch(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The loss, differentiable in every way."""
        logits = functional.linear(h.to(self.wide), weight.to(self.wide), None if bias is None else bias.to(self.wide))
        loss = functional.cross_entropy(
            logits,
            self.targets,
            ignore_index=self.ignore_index,
            label_smoothing=self.smoothing,
            reduction="sum",
        )
        count = (self.targets != self.ignore_index).sum().clamp(min=1) if self.mean else 1
        return loss / count


# The numbers.


def _run(*arguments: Any) -> Tensor:
    return _run_keeping(*arguments, False, False, False)[0]


def _run_keeping(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, wanted = Call(*arguments[:-3]), Wanted(*arguments[-3:])
    h, targets, kept = select(call.h, call.targets, len(call.weight), call.ignore_index)
    rule = Rule(call.smoothing, 1 / max(1, len(targets)) if call.mean else 1.0)
    losses, dh, *rest = losses_of(rule, targets, h, call.weight, call.bias, wanted)
    if dh is not None:
        dh = h.new_zeros(call.h.shape, dtype=call.wide).masked_scatter_(kept.unsqueeze(1), dh.to(call.wide))
    gradients = (h.new_empty(0, dtype=call.wide) if g is None else g.to(call.wide) for g in (dh, *rest))
    return (losses.sum() * rule.scale).to(call.wide), *gradients  # pyright: ignore[reportReturnType]


def _run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    factor, *ready = arguments[:4]
    inputs = arguments[4:7]
    return tuple((g * factor).to(g.dtype if t is None else t.dtype) for g, t in zip(ready, inputs, strict=True))


for name, implementation in (("", _run), ("_keeping", _run_keeping), ("_backward", _run_backward)):
    _LIBRARY.impl(f"linear_cross_entropy{name}", implementation, "CompositeExplicitAutograd")


# The shapes alone.


def _shapes(*arguments: Any) -> Tensor:
    return arguments[0].new_empty((), dtype=Call(*arguments).wide)


def _shapes_keeping(*arguments: Any) -> tuple[Tensor, ...]:
    call, wanted = Call(*arguments[:-3]), arguments[-3:]
    shapes = (t.shape if want and t is not None else (0,) for t, want in zip(call[:3], wanted, strict=True))
    return _shapes(*call), *(call.h.new_empty(shape, dtype=call.wide) for shape in shapes)


torch.library.register_fake("holdfast::linear_cross_entropy", _shapes, lib=_LIBRARY)
torch.library.register_fake("holdfast::linear_cross_entropy_keeping", _shapes_keeping, lib=_LIBRARY)
torch.library.register_fake("holdfast::linear_cross_entropy_backward", _run_backward, lib=_LIBRARY)


# The derivatives.


def _autograd(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    if tangents_are_possible():
        return call.by_torch(*call[:3])
    if wants_gradient(arguments):
        return keeping(*call, *(t is not None and t.requires_grad for t in call[:3]))[0]
    with below_autograd():
        return linear_cross_entropy(*arguments)


class _Keeping(_SingleLevelFunction):
    """holdfast::linear_cross_entropy_keeping as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():
            loss, *ready = keeping(*arguments)
        ctx.save_for_backward(*arguments[:4], *ready)
        ctx.mark_non_differentiable(*ready)
        ctx.set_materialize_grads(False)
        ctx.rest = arguments[4:-3]
        return loss, *ready

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        tensors, ready, nothing = ctx.saved_tensors[:4], ctx.saved_tensors[4:], (None,) * (len(ctx.rest) + 4)
        if factor is None:
            return None, None, None, *nothing
        call = Call(*tensors, *ctx.rest)
        found = pull_back(call, factor) if tangents_are_possible() else backward(factor, *ready, *call)
        wanted = zip(found, ctx.needs_input_grad[:3], strict=True)
        return *(g if want else None for g, want in wanted), *nothing


class _Backward(_SingleLevelFunction):
    """holdfast::linear_cross_entropy_backward as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():
            found = backward(*arguments)
        ctx.save_for_backward(arguments[0], *arguments[4:8])
        ctx.set_materialize_grads(False)
        ctx.rest = arguments[8:]
        return found

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        saved: list[Any] = list(ctx.saved_tensors)  # the factor, h, weight, bias, targets
        places = [n for n in range(4) if saved[n] is not None]
        asked = [n for n in range(3) if seconds[n] is not None and saved[1 + n] is not None]

        def gradients(*values: Tensor) -> tuple[Tensor | None, ...]:
            factor, *tensors = filled(saved, places, values)
            found = pull_back(Call(*tensors, *ctx.rest), factor)  # pyright: ignore
            return tuple(found[n] for n in asked)

        pull: Any = torch.func.vjp(gradients, *(saved[n] for n in places))[1]
        found = filled([None] * 4, places, pull(tuple(seconds[n] for n in asked)))
        return found[0], None, None, None, *found[1:], *(None,) * (len(ctx.rest) + 1)


def pull_back(call: Call, factor: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of h, weight and bias as functions that are differentiable again."""
    places = [n for n in range(3) if call[n] is not None]

    def loss(*values: Tensor) -> Tensor:
        return call.by_torch(*filled(call[:3], places, values))  # pyright: ignore[reportArgumentType]

    pull: Any = torch.func.vjp(loss, *(call[n] for n in places))[1]
    return tuple(filled([None] * 3, places, pull(factor)))


def _one_loss_after_another(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    outputs, dims = one_after_another(lambda *a: (linear_cross_entropy(*a),))(info, in_dims, *arguments)
    return outputs[0], dims[0]


_LIBRARY.impl("linear_cross_entropy", _autograd, "Autograd")
_LIBRARY.impl("linear_cross_entropy_keeping", autograd_of(keeping, _Keeping), "Autograd")
_LIBRARY.impl("linear_cross_entropy_backward", autograd_of(backward, _Backward), "Autograd")
torch.library.register_vmap("holdfast::linear_cross_entropy", _one_loss_after_another, lib=_LIBRARY)
for name, operator in (("keeping", keeping), ("backward", backward)):
    torch.library.register_vmap(f"holdfast::linear_cross_entropy_{name}", one_after_another(operator), lib=_LIBRARY)
