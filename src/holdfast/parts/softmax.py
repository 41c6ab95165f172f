"""The last layer of a language model and its loss, without ever holding the logits of all tokens.

A linear layer over a vocabulary and its cross-entropy usually make three matrices of [tokens, vocabulary]. Here a block
of tokens goes through the whole vocabulary; since the gradient with respect to a logit is its softmax minus what the
target asks for, the gradients are made in the same pass, while the block is at hand, and wait for the backward pass
(the idea of Liger-Kernel, Hsu et al., 2024). Without gradients wanted nothing of that is computed. Where every token's
loss is asked for, what each will count is not known before the backward pass, which then makes the logits anew.
"""

from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine.backend import is_ordinary, tangents_are_possible
from holdfast.engine.softmax_native import Wanted

from . import softmax_operator
from .softmax_losses import Rule, Selected, among_all, combined, losses_of, select, wide


class Reduction(Enum):
    """What becomes of the tokens' losses."""

    MEAN = "mean"  # over the tokens that are not ignored, by their weights; zero where there are none
    SUM = "sum"
    NONE = "none"  # [tokens]: nothing; an ignored token's is zero


def linear_cross_entropy(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = Reduction.MEAN,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy, in nats, of softmax(h weight^T + bias): `F.cross_entropy(F.linear(h, weight, bias), targets)`.

    float32 weights on a CPU run the native kernels, under torch.compile and torch.func too; h may then be bfloat16 or
    float16. Their products follow torch.set_float32_matmul_precision, and are of bfloat16 where h is. Everything else
    is done by torch in blocks of tokens; the gradient of a gradient, and forward-mode ones, by torch with all logits
    at once. Sums are float32 at least.

    Args:
        h: [tokens, width].
        weight: [vocabulary, width]; may be an embedding's that is used elsewhere too.
        bias: [vocabulary] or None.
        targets: [tokens] int64.
        ignore_index: targets of this value count for nothing.
        label_smoothing: this share of the target's probability is spread over the vocabulary (Szegedy et al., 2016).
        token_weights: [tokens] what each token's loss counts. Reduction.MEAN is then the weighted sum over the sum of
            the weights, as torch's is with weights of classes. A gradient of their own they have with Reduction.NONE.

    Returns:
        A scalar, with Reduction.NONE [tokens], of at least float32. The backward pass of the latter costs the logits
        once more.

    Raises:
        ValueError: a shape does not fit, a target lies outside the vocabulary (the message names the first), or
            token_weights want a gradient that they have not.
    """
    _check(h, weight, bias, targets, label_smoothing)
    _check_weights(token_weights, targets, reduction)
    mean = reduction is Reduction.MEAN
    if not is_ordinary(h, weight) or tangents_are_possible():
        if reduction is Reduction.NONE:
            losses = softmax_operator.every(h, weight, bias, targets, None, ignore_index, label_smoothing, False)
            return losses if token_weights is None else _weighted(losses, token_weights, targets != ignore_index)
        call = (h, weight, bias, targets, token_weights, ignore_index, label_smoothing, mean)
        return softmax_operator.linear_cross_entropy(*call)
    chosen = select(h, targets, len(weight), ignore_index, token_weights)
    rule = chosen.rule(label_smoothing, mean)
    if reduction is Reduction.NONE:
        return _every_loss(rule, chosen, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h, weight, bias)):
        return LinearCrossEntropy.apply(rule, chosen.targets, chosen.weights, chosen.h, weight, bias)  # pyright: ignore
    found = losses_of(rule, chosen.targets, chosen.h, weight, bias, Wanted(False, False, False))
    return combined(rule, found.losses, chosen.weights)


def _weighted(losses: Tensor, token_weights: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, losses * token_weights.to(losses.dtype), 0)


def _every_loss(rule: Rule, chosen: Selected, weight: Tensor, bias: Tensor | None) -> Tensor:
    h, targets, weights, kept = chosen
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h, weight, bias)):
        losses: Tensor = EveryLinearCrossEntropy.apply(rule, targets, h, weight, bias)  # pyright: ignore
    else:
        losses = losses_of(rule, targets, h, weight, bias, Wanted(False, False, False)).losses
    return among_all(losses if weights is None else losses * weights, kept)


def _check(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float) -> None:
    if h.dim() != 2 or weight.dim() != 2 or h.shape[1] != weight.shape[1]:
        raise ValueError(
            f"h must be [tokens, width] and weight [vocabulary, width], not {list(h.shape)} and {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [vocabulary {len(weight)}], not {list(bias.shape)}")
    if targets.dtype != torch.int64 or targets.shape != h.shape[:1]:
        raise ValueError(f"targets must be int64 [tokens {len(h)}], not {targets.dtype} {list(targets.shape)}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing is a share, at least 0 and below 1, not {smoothing}")


def _check_weights(token_weights: Tensor | None, targets: Tensor, reduction: Reduction) -> None:
    if token_weights is None:
        return
    if not token_weights.is_floating_point() or token_weights.shape != targets.shape:
        raise ValueError(
            f"token_weights must be of floating point [tokens {len(targets)}], not {token_weights.dtype}"
            f" {list(token_weights.shape)}"
        )
    if reduction is not Reduction.NONE and token_weights.requires_grad and torch.is_grad_enabled():
        raise ValueError("token_weights have a gradient with Reduction.NONE alone: detach them, or use that")


class LinearCrossEntropy(torch.autograd.Function):
    """One node of the graph that already knows its gradients."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, targets: Tensor, token_weights: Tensor | None, *inputs: Tensor) -> Tensor:
        h, weight, bias = inputs
        ctx.save_for_backward(targets, token_weights, h, weight, bias)
        ctx.rule, ctx.wanted = rule, Wanted(*ctx.needs_input_grad[3:])
        found = losses_of(rule, targets, h, weight, bias, ctx.wanted, token_weights)
        ctx.ready = found[1:]
        return combined(rule, found.losses, token_weights)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        targets, token_weights, *inputs = ctx.saved_tensors
        (factor,) = outer
        if torch.is_grad_enabled() or tangents_are_possible():
            each = (factor * ctx.rule.scale).expand(len(targets))
            each = each if token_weights is None else each * token_weights
            return None, None, None, *differentiable(ctx.rule, targets, inputs, each, ctx.wanted)
        ready, ctx.ready = ctx.ready, None  # handed over, not copied; whoever comes a second time has them made anew
        if ready is None:
            h, weight, bias = inputs
            ready = losses_of(ctx.rule, targets, h, weight, bias, ctx.wanted, token_weights)[1:]
        unchanged = factor.is_cpu and factor.item() == 1
        given = [g if g is None or unchanged else g.mul_(factor.to(g.dtype)) for g in ready]
        return None, None, None, *(g if g is None else g.to(t.dtype) for g, t in zip(given, inputs, strict=True))


class EveryLinearCrossEntropy(torch.autograd.Function):
    """Every token's loss. What it counts only the backward pass knows: there it is the token's weight."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, targets: Tensor, *inputs: Tensor) -> Tensor:
        h, weight, bias = inputs
        ctx.save_for_backward(targets, h, weight, bias)
        ctx.rule, ctx.wanted = rule, Wanted(*ctx.needs_input_grad[2:])
        return losses_of(rule, targets, h, weight, bias, Wanted(False, False, False)).losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        targets, h, weight, bias = ctx.saved_tensors
        inputs = [h, weight, bias]
        if torch.is_grad_enabled() or tangents_are_possible():
            return None, None, *differentiable(ctx.rule, targets, inputs, outer[0], ctx.wanted)
        given = losses_of(ctx.rule, targets, h, weight, bias, ctx.wanted, outer[0])[1:]
        return None, None, *(g if g is None else g.to(t.dtype) for g, t in zip(given, inputs, strict=True))


def differentiable(
    rule: Rule, targets: Tensor, inputs: list[Tensor], each: Tensor, wanted: Wanted
) -> list[Tensor | None]:
    """The gradients as functions of the inputs, for second derivatives: here the graph holds all logits.

    each: [tokens] the gradient of every token's loss.
    """
    with torch.enable_grad():
        h, weight, bias = (None if t is None else t.view_as(t) for t in inputs)
        assert h is not None and weight is not None
        given = (None if t is None else t.to(wide(h.dtype)) for t in (h, weight, bias))
        logits = functional.linear(*given)  # pyright: ignore[reportArgumentType]
        losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=rule.smoothing)
        asked = [t for t, want in zip((h, weight, bias), wanted, strict=True) if want and t is not None]
        found = iter(torch.autograd.grad(losses, asked, each, create_graph=True))
    return [next(found) if want and t is not None else None for t, want in zip(inputs, wanted, strict=True)]
