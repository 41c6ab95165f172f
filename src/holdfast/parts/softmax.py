"""The last layer of a language model and its loss, without ever holding the logits of all tokens.

A linear layer over a vocabulary and its cross-entropy usually make three matrices of [tokens, vocabulary]. Here a block
of tokens goes through the whole vocabulary; since the gradient with respect to a logit is its softmax minus what the
target asks for, the gradients are made in the same pass, while the block is at hand, and wait for the backward pass
(the idea of Liger-Kernel, Hsu et al., 2024). Without gradients wanted nothing of that is computed.
"""

from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine.backend import is_ordinary, tangents_are_possible
from holdfast.engine.softmax_native import Wanted

from . import softmax_operator
from .softmax_losses import Rule, losses_of, select


class Reduction(Enum):
    """What becomes of the tokens' losses."""

    MEAN = "mean"  # over the tokens that are not ignored; zero where all are
    SUM = "sum"


def linear_cross_entropy(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = Reduction.MEAN,
) -> Tensor:
    """Cross-entropy, in nats, of softmax(h weight^T + bias): `F.cross_entropy(F.linear(h, weight, bias), targets)`.

    float32 weights on a CPU run the native kernels, under torch.compile and torch.func too; h may then be bfloat16 or
    float16. Everything else is done by torch in blocks of tokens; the gradient of a gradient, and forward-mode ones, by
    torch with all logits at once. Sums are float32 at least.

    Args:
        h: [tokens, width].
        weight: [vocabulary, width]; may be an embedding's that is used elsewhere too.
        bias: [vocabulary] or None.
        targets: [tokens] int64.
        ignore_index: targets of this value count for nothing.
        label_smoothing: this share of the target's probability is spread over the vocabulary (Szegedy et al., 2016).

    Returns:
        A scalar, of at least float32.

    Raises:
        ValueError: a shape does not fit, or a target lies outside the vocabulary; the message names the first.
    """
    _check(h, weight, bias, targets, label_smoothing)
    if not is_ordinary(h, weight) or tangents_are_possible():
        call = (h, weight, bias, targets, ignore_index, label_smoothing, reduction is Reduction.MEAN)
        return softmax_operator.linear_cross_entropy(*call)
    h, targets, _ = select(h, targets, len(weight), ignore_index)
    scale = 1 / max(1, len(targets)) if reduction is Reduction.MEAN else 1.0
    rule = Rule(label_smoothing, scale)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (h, weight, bias)):
        return LinearCrossEntropy.apply(rule, targets, h, weight, bias)  # pyright: ignore[reportReturnType]
    return losses_of(rule, targets, h, weight, bias, Wanted(False, False, False)).losses.sum() * scale


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


class LinearCrossEntropy(torch.autograd.Function):
    """One node of the graph that already knows its gradients."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, targets: Tensor, *inputs: Tensor) -> Tensor:
        h, weight, bias = inputs
        ctx.save_for_backward(targets, h, weight, bias)
        ctx.rule, ctx.wanted = rule, Wanted(*ctx.needs_input_grad[2:])
        found = losses_of(rule, targets, h, weight, bias, ctx.wanted)
        ctx.ready = found[1:]
        return found.losses.sum() * rule.scale

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        targets, *inputs = ctx.saved_tensors
        (factor,) = outer
        if torch.is_grad_enabled() or tangents_are_possible():
            return None, None, *differentiable(ctx.rule, targets, inputs, factor, ctx.wanted)
        ready, ctx.ready = ctx.ready, None  # handed over, not copied; whoever comes a second time has them made anew
        if ready is None:
            h, weight, bias = inputs
            ready = losses_of(ctx.rule, targets, h, weight, bias, ctx.wanted)[1:]
        unchanged = factor.is_cpu and factor.item() == 1
        given = [g if g is None or unchanged else g.mul_(factor.to(g.dtype)) for g in ready]
        return None, None, *(g if g is None else g.to(t.dtype) for g, t in zip(given, inputs, strict=True))


def differentiable(
    rule: Rule, targets: Tensor, inputs: list[Tensor], factor: Tensor, wanted: Wanted
) -> list[Tensor | None]:
    """The gradients as functions of the inputs, for second derivatives: here the graph holds all logits."""
    with torch.enable_grad():
        h, weight, bias = (None if t is None else t.view_as(t) for t in inputs)
        assert h is not None and weight is not None
        logits = functional.linear(h, weight, bias)
        loss = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=rule.smoothing) * rule.scale
        asked = [t for t, want in zip((h, weight, bias), wanted, strict=True) if want and t is not None]
        found = iter(torch.autograd.grad(loss, asked, factor, create_graph=True))
    return [next(found) if want and t is not None else None for t, want in zip(inputs, wanted, strict=True)]
