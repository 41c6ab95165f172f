"""Losses of a linear layer over a vocabulary and their gradients, by the kernels or by torch in blocks of tokens."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine import softmax_native
from holdfast.engine.softmax_native import Losses, Wanted

BLOCK_BYTES: Final = 16 << 20  # of logits in one block of tokens, where torch computes them


class Rule(NamedTuple):
    """How losses are made of logits and put together."""

    smoothing: float
    scale: float  # one over the sum of the tokens' weights for the mean


class Selected(NamedTuple):
    """The tokens that count."""

    h: Tensor  # [tokens that count, width]
    targets: Tensor  # [tokens that count]
    weights: Tensor | None  # [tokens that count] in the dtype of losses; None: one
    kept: Tensor  # bool [tokens]

    def rule(self, smoothing: float, mean: bool) -> Rule:
        """The rule for their sum or mean, which is zero where nothing counts."""
        if not mean:
            return Rule(smoothing, 1.0)
        count = len(self.targets) if self.weights is None else float(self.weights.sum(dtype=torch.float64))
        return Rule(smoothing, 1 / count if count else 0.0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """In what losses of h of this dtype are computed."""
    return torch.promote_types(dtype, torch.float32)


def select(
    h: Tensor, targets: Tensor, vocabulary: int, ignore_index: int, token_weights: Tensor | None = None
) -> Selected:
    """Leave out ignored tokens. ValueError where another's target lies outside the vocabulary."""
    kept = targets != ignore_index
    weights = None if token_weights is None else token_weights.to(wide(h.dtype))
    if not bool(kept.all()):
        h, targets = h[kept], targets[kept]
        weights = None if weights is None else weights[kept]
    _check_targets(targets, vocabulary, kept)
    return Selected(h, targets, weights, kept)


def combined(rule: Rule, losses: Tensor, token_weights: Tensor | None) -> Tensor:
    """The tokens' losses in one."""
    return (losses if token_weights is None else losses * token_weights).sum() * rule.scale


def among_all(losses: Tensor, kept: Tensor) -> Tensor:
    """The losses [tokens that count] among zeros for the ignored: [tokens]."""
    if len(losses) == len(kept):
        return losses
    return losses.new_zeros(kept.shape).masked_scatter(kept, losses)


def _check_targets(targets: Tensor, vocabulary: int, kept: Tensor) -> None:
    if not targets.numel() or 0 <= int(targets.min()) <= int(targets.max()) < vocabulary:
        return
    wrong = ((targets < 0) | (targets >= vocabulary)).nonzero()[0]
    token = int(kept.nonzero()[wrong])
    raise ValueError(
        f"target {int(targets[wrong])} of token {token} lies outside the vocabulary, 0 to {vocabulary - 1}"
    )


def losses_of(
    rule: Rule,
    targets: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    wanted: Wanted,
    token_weights: Tensor | None = None,
) -> Losses:
    """Every token's loss, without its weight, and the wanted gradients of the scaled and weighted sum of them."""
    if softmax_native.obstacle(h, weight, bias) is None:
        return softmax_native.cross_entropy(h, weight, bias, targets, *rule, wanted, token_weights)
    bias = None if bias is None else bias.detach()
    return in_blocks(rule, targets, h.detach(), weight.detach(), bias, wanted, token_weights)


def blocks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Runs of tokens whose float32 logits take `BLOCK_BYTES`, of one token at least."""
    step = max(1, BLOCK_BYTES // (4 * vocabulary))
    return (slice(first, first + step) for first in range(0, tokens, step))


@torch.no_grad()
def in_blocks(
    rule: Rule,
    targets: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    wanted: Wanted,
    token_weights: Tensor | None = None,
) -> Losses:
    """`losses_of` by torch, on any device and in any dtype; logits and gradients of weights are float32 at least."""
    dtype = wide(h.dtype)
    losses = h.new_empty(len(h), dtype=dtype)
    dh = torch.empty_like(h) if wanted.h else None
    dweight = torch.zeros_like(weight, dtype=dtype) if wanted.weight else None
    dbias = torch.zeros_like(bias, dtype=dtype) if wanted.bias and bias is not None else None
    for block in blocks(len(h), len(weight)):
        hidden, chosen = h[block], targets[block].unsqueeze(1)
        logits = functional.linear(hidden, weight.to(h.dtype), None if bias is None else bias.to(h.dtype)).to(dtype)
        totals = logits.logsumexp(1)
        losses[block] = totals - (1 - rule.smoothing) * logits.gather(1, chosen).squeeze(1)
        if rule.smoothing:
            losses[block] -= rule.smoothing * logits.mean(1)
        if not any(wanted):
            continue
        dlogits = logits.sub_(totals.unsqueeze(1)).exp_().sub_(rule.smoothing / len(weight))
        dlogits.scatter_add_(1, chosen, dlogits.new_full((), rule.smoothing - 1).expand_as(chosen)).mul_(rule.scale)
        if token_weights is not None:
            dlogits *= token_weights[block].to(dtype).unsqueeze(1)
        if dh is not None:
            dh[block] = (dlogits.to(h.dtype) @ weight.to(h.dtype)).to(h.dtype)
        if dweight is not None:
            dweight += (dlogits.to(h.dtype).T @ hidden).to(dtype)
        if dbias is not None:
            dbias += dlogits.sum(0)
    return Losses(losses, dh, dweight, dbias)
