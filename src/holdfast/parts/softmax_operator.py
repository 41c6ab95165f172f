"""The fused loss as an operator of torch: for torch.compile, torch.export and torch.func, any number of tokens.

    holdfast::linear_cross_entropy           the loss
    holdfast::linear_cross_entropy_keeping   the same, and its gradients, which are made in the same pass
    holdfast::linear_cross_entropy_backward  those gradients times the outer one, in the dtypes of the inputs
    holdfast::linear_cross_entropy_every     every token's loss: neither weights nor a mean

As with holdfast::lstm the second and the third are derivatives and nobody else's business, and derivatives of the
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

from .softmax_losses import Rule, among_all, combined, losses_of, select, wide

_ARGUMENTS: Final = (
    "Tensor h, Tensor weight, Tensor? bias, Tensor targets, Tensor? token_weights, int ignore_index, float smoothing,"
    " bool mean"
)
_TENSORS: Final = 5
_LIBRARY: Final = torch.library.Library("holdfast", "FRAGMENT")
_LIBRARY.define(f"linear_cross_entropy({_ARGUMENTS}) -> Tensor")
_LIBRARY.define(f"linear_cross_entropy_every({_ARGUMENTS}) -> Tensor")
_LIBRARY.define(  # a gradient that is not needed is an empty tensor
    f"linear_cross_entropy_keeping({_ARGUMENTS}, bool need_h, bool need_weight, bool need_bias)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    f"linear_cross_entropy_backward(Tensor factor, Tensor dh, Tensor dweight, Tensor dbias, {_ARGUMENTS})"
    " -> (Tensor, Tensor, Tensor)"
)

linear_cross_entropy: Final = torch.ops.holdfast.linear_cross_entropy.default
every: Final = torch.ops.holdfast.linear_cross_entropy_every.default
keeping: Final = torch.ops.holdfast.linear_cross_entropy_keeping.default
backward: Final = torch.ops.holdfast.linear_cross_entropy_backward.default


class Call(NamedTuple):
    """The arguments of one call, in the operators' order."""

    h: Tensor  # [tokens, width]
    weight: Tensor  # [vocabulary, width]
    bias: Tensor | None  # [vocabulary]
    targets: Tensor  # int64 [tokens]
    token_weights: Tensor | None  # [tokens]
    ignore_index: int
    smoothing: float
    mean: bool

    @property
    def wide(self) -> torch.dtype:
        return wide(self.h.dtype)

    def every_by_torch(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Every token's loss, differentiable in every way."""
        logits = functional.linear(h.to(self.wide), weight.to(self.wide), None if bias is None else bias.to(self.wide))
        rule: Any = {"ignore_index": self.ignore_index, "label_smoothing": self.smoothing, "reduction": "none"}
        return functional.cross_entropy(logits, self.targets, **rule)

    def by_torch(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The loss, differentiable in every way."""
        counted = (self.targets != self.ignore_index).to(self.wide)
        if self.token_weights is not None:
            counted = torch.where(counted > 0, self.token_weights.to(self.wide), 0)
        loss = (self.every_by_torch(h, weight, bias) * counted).sum()
        count = counted.sum()
        return loss / torch.where(count == 0, 1, count) if self.mean else loss


# The numbers.


def _run(*arguments: Any) -> Tensor:
    return _run_keeping(*arguments, False, False, False)[0]


def _run_keeping(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, wanted = Call(*arguments[:-3]), Wanted(*arguments[-3:])
    chosen = select(call.h, call.targets, len(call.weight), call.ignore_index, call.token_weights)
    rule = chosen.rule(call.smoothing, call.mean)
    losses, dh, *rest = losses_of(rule, chosen.targets, chosen.h, call.weight, call.bias, wanted, chosen.weights)
    if dh is not None:
        dh = dh.new_zeros(call.h.shape, dtype=call.wide).masked_scatter_(chosen.kept.unsqueeze(1), dh.to(call.wide))
    gradients = (losses.new_empty(0, dtype=call.wide) if g is None else g.to(call.wide) for g in (dh, *rest))
    return combined(rule, losses, chosen.weights).to(call.wide), *gradients  # pyright: ignore[reportReturnType]


def _run_every(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    h, targets, _, kept = select(call.h, call.targets, len(call.weight), call.ignore_index)
    wanted = Wanted(False, False, False)
    return among_all(losses_of(Rule(call.smoothing, 1.0), targets, h, call.weight, call.bias, wanted).losses, kept)


def _run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    factor, *ready = arguments[:4]
    inputs = arguments[4:7]
    return tuple((g * factor).to(g.dtype if t is None else t.dtype) for g, t in zip(ready, inputs, strict=True))


for name, implementation in (
    ("", _run),
    ("_every", _run_every),
    ("_keeping", _run_keeping),
    ("_backward", _run_backward),
):
    _LIBRARY.impl(f"linear_cross_entropy{name}", implementation, "CompositeExplicitAutograd")


# The shapes alone.


def _shapes(*arguments: Any) -> Tensor:
    return arguments[0].new_empty((), dtype=Call(*arguments).wide)


def _shapes_every(*arguments: Any) -> Tensor:
    return arguments[0].new_empty(arguments[0].shape[:1], dtype=Call(*arguments).wide)


def _shapes_keeping(*arguments: Any) -> tuple[Tensor, ...]:
    call, wanted = Call(*arguments[:-3]), arguments[-3:]
    shapes = (t.shape if want and t is not None else (0,) for t, want in zip(call[:3], wanted, strict=True))
    return _shapes(*call), *(call.h.new_empty(shape, dtype=call.wide) for shape in shapes)


torch.library.register_fake("holdfast::linear_cross_entropy", _shapes, lib=_LIBRARY)
torch.library.register_fake("holdfast::linear_cross_entropy_every", _shapes_every, lib=_LIBRARY)
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
        ctx.save_for_backward(*arguments[:_TENSORS], *ready)
        ctx.mark_non_differentiable(*ready)
        ctx.set_materialize_grads(False)
        ctx.rest, ctx.made = arguments[_TENSORS:-3], arguments[-3:]
        return loss, *ready

    @staticmethod
    def backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        tensors, ready = ctx.saved_tensors[:_TENSORS], ctx.saved_tensors[_TENSORS:]
        nothing = (None,) * (len(ctx.rest) + 5)
        if factor is None:
            return None, None, None, *nothing
        call, wanted = Call(*tensors, *ctx.rest), ctx.needs_input_grad[:3]
        # A transform around another one's may want what that had no need of.
        missing = any(want and not made for want, made in zip(wanted, ctx.made, strict=True))
        torchs = missing or tangents_are_possible()
        found = pull_back(call, factor) if torchs else backward(factor, *ready, *call)
        return *(g if want else None for g, want in zip(found, wanted, strict=True)), *nothing


class _Every(_SingleLevelFunction):
    """holdfast::linear_cross_entropy_every as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():
            losses = every(*arguments)
        ctx.save_for_backward(*arguments[:_TENSORS])
        ctx.rest = arguments[_TENSORS:]
        return losses

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        """The gradients of the sum of losses that `outer` weighs."""
        call = Call(*ctx.saved_tensors, *ctx.rest)._replace(token_weights=outer)
        wanted, one = ctx.needs_input_grad[:3], outer.new_ones(())
        if tangents_are_possible():
            found = pull_back(call, one)
        else:
            _, *ready = keeping(*call._replace(token_weights=outer.detach()), *wanted)
            found = backward(one, *ready, *call)
        given = (g if want else None for g, want in zip(found, wanted, strict=True))
        return *given, *(None,) * (len(call) - 3)


class _Backward(_SingleLevelFunction):
    """holdfast::linear_cross_entropy_backward as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad(), below_autograd():
            found = backward(*arguments)
        factor, call = arguments[0], arguments[4:]
        ctx.save_for_backward(factor, *call[:_TENSORS])
        ctx.set_materialize_grads(False)
        ctx.rest = call[_TENSORS:]
        return found

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        saved: list[Any] = list(ctx.saved_tensors)  # the factor, h, weight, bias, targets, the tokens' weights
        places = [n for n in (0, 1, 2, 3, 5) if saved[n] is not None]
        asked = [n for n in range(3) if seconds[n] is not None and saved[1 + n] is not None]

        def gradients(*values: Tensor) -> tuple[Tensor | None, ...]:
            factor, *tensors = filled(saved, places, values)
            found = pull_back(Call(*tensors, *ctx.rest), factor)  # pyright: ignore
            return tuple(found[n] for n in asked)

        pull: Any = torch.func.vjp(gradients, *(saved[n] for n in places))[1]
        found = filled([None] * len(saved), places, pull(tuple(seconds[n] for n in asked)))
        return found[0], None, None, None, *found[1:], *(None,) * len(ctx.rest)


def pull_back(call: Call, factor: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of h, weight and bias as functions that are differentiable again."""
    places = [n for n in range(3) if call[n] is not None]

    def loss(*values: Tensor) -> Tensor:
        return call.by_torch(*filled(call[:3], places, values))  # pyright: ignore[reportArgumentType]

    pull: Any = torch.func.vjp(loss, *(call[n] for n in places))[1]
    return tuple(filled([None] * 3, places, pull(factor)))


def _autograd_every(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    return call.every_by_torch(*call[:3]) if tangents_are_possible() else autograd_of(every, _Every)(*arguments)


def _one_loss_after_another(operator: Any) -> Any:
    several = one_after_another(lambda *arguments: (operator(*arguments),))

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        outputs, dims = several(info, in_dims, *arguments)
        return outputs[0], dims[0]

    return rule


_LIBRARY.impl("linear_cross_entropy", _autograd, "Autograd")
_LIBRARY.impl("linear_cross_entropy_every", _autograd_every, "Autograd")
_LIBRARY.impl("linear_cross_entropy_keeping", autograd_of(keeping, _Keeping), "Autograd")
_LIBRARY.impl("linear_cross_entropy_backward", autograd_of(backward, _Backward), "Autograd")
for name, operator in (("", linear_cross_entropy), ("_every", every)):
    torch.library.register_vmap(
        f"holdfast::linear_cross_entropy{name}", _one_loss_after_another(operator), lib=_LIBRARY
    )
for name, operator in (("keeping", keeping), ("backward", backward)):
    torch.library.register_vmap(f"holdfast::linear_cross_entropy_{name}", one_after_another(operator), lib=_LIBRARY)
