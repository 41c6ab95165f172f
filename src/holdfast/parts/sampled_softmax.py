"""Training over very many items: softmax over each token's target and a few negatives that all tokens share.

Bengio & Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic language model", IEEE
TNN 19(4), 2008: a negative drawn with expected count Q counts exp(logit) / Q. Yi et al., "Sampling-bias-corrected
neural modeling for large corpus item recommendations", RecSys 2019, for log Q; Hidasi & Karatzoglou, "Recurrent neural
networks with top-k gains", CIKM 2018, for negatives shared by a batch and drawn from powers of the items' counts.
Words follow Zipf's law: the commonest thousand carry most of the sum, and taken always they add nothing to its noise.
"""

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine import softmax_native
from holdfast.engine.backend import is_ordinary, tangents_are_possible
from holdfast.engine.softmax_native import Wanted


@final
class NegativeSampler:
    """Draws items with probability proportional to counts ** alpha, with replacement.

    Args:
        counts: [vocabulary] how often each item was seen, not negative; an item of count 0 is never drawn unless
            alpha is 0.
        alpha: 0 is uniform, 1 as often as seen.
        always: so many of the commonest items are among every draw, once each; the others are drawn.
    """

    def __init__(self, counts: Tensor, alpha: float = 0.75, always: int = 0) -> None:
        weights = counts.double().pow(alpha)
        self.always = counts.flatten().argsort(descending=True, stable=True)[:always]
        weights.view(-1)[self.always] = 0.0
        if counts.dim() != 1 or not bool((counts >= 0).all()) or not float(weights.sum()) > 0:
            raise ValueError(
                "counts must be [vocabulary], none negative, and not all of them zero or taken always, "
                f"not {list(counts.shape)}"
            )
        self.log_share = (weights / weights.sum()).log()  # [vocabulary] float64
        self._until = weights.cumsum(0)
        self._last = int(weights.nonzero()[-1])  # the last item that may be drawn

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Items, int64 [count], and the log of how often each is expected among so many, float32 [count].

        Raises ValueError where count leaves none to be drawn.
        """
        if count <= len(self.always):
            raise ValueError(f"{len(self.always)} items are taken always: of {count} none would be drawn")
        count -= len(self.always)
        at = torch.rand(count, generator=rng, dtype=torch.float64) * self._until[-1]
        items = torch.searchsorted(self._until, at, right=True)
        items = items.clamp_(max=self._last)  # rounding at the very end
        log_q = (self.log_share[items] + torch.tensor(float(count)).log()).float()
        return torch.cat([self.always, items]), torch.cat([torch.zeros(len(self.always)), log_q])


def sampled_softmax_loss(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    negatives: Tensor,
    log_q: Tensor,
    *,
    sparse: bool = False,
) -> Tensor:
    """Mean cross-entropy, in nats, of the targets against the negatives.

    The sum over negatives of exp(logit - log_q) is, in expectation, the sum over all items but the target, whose own
    logit is exact: as negatives grow in number, loss and gradient approach those of the full softmax. A negative that
    is a row's own target does not count for that row.

    Args:
        h: [tokens, width].
        weight: [vocabulary, width].
        bias: [vocabulary] or None.
        targets: int64 [tokens].
        negatives: int64 [negatives], shared by all tokens; the same item may come twice.
        log_q: [negatives] the log of each one's expected count.
        sparse: the gradient of weight holds the rows met only, as that of nn.Embedding(sparse=True) does, in place of a
            matrix of zeros per step; SparseAdam and SGD take it. That of bias is one number per item, and dense.

    Raises:
        ValueError: a shape does not fit.
        IndexError: an item lies outside the vocabulary.
    """
    if h.dim() != 2 or h.shape[1:] != weight.shape[1:] or targets.shape != h.shape[:1] or not len(targets):
        raise ValueError(
            f"h [tokens, width], weight [vocabulary, width] and targets [tokens] do not fit: {list(h.shape)}, "
            f"{list(weight.shape)}, {list(targets.shape)}"
        )
    if negatives.dim() != 1 or log_q.shape != negatives.shape:
        raise ValueError(f"negatives and log_q must be [negatives], not {list(negatives.shape)} {list(log_q.shape)}")
    negatives, log_q = merged(negatives, log_q)
    items = torch.cat([targets, negatives])  # one look-up, so that a sparse gradient is one
    rows = functional.embedding(items, weight, sparse=sparse)
    own, others = rows.split([len(targets), len(negatives)])
    chosen, offset = (h * own).sum(1), -log_q  # [tokens], [negatives]
    if bias is not None:
        chosen, offset = chosen + bias[targets], offset + bias[negatives]
    at = torch.searchsorted(negatives, targets).clamp_(max=len(negatives) - 1)
    hits = torch.where(negatives[at] == targets, at, -1)
    given = h, others, offset, chosen
    native = softmax_native.obstacle(h, others, offset) is None and all(t.dtype is torch.float32 for t in given)
    if not native or not is_ordinary(h, others) or tangents_are_possible():
        return against_others(*given, hits)
    return AgainstOthers.apply(*given, hits)  # pyright: ignore[reportReturnType]


def against_others(h: Tensor, others: Tensor, offset: Tensor, chosen: Tensor, hits: Tensor) -> Tensor:
    """The mean loss by torch, with all logits: chosen [tokens] against h others^T + offset, less every token's hit."""
    logits = torch.addmm(offset, h, others.T)  # [tokens, negatives]
    rows = (hits >= 0).nonzero()[:, 0]
    # Far below all others, and so of gradient zero by itself: it may be written past autograd. Not -inf, for where a
    # row has no other negative the gradient would not be a number.
    logits.detach()[rows, hits[rows]] = torch.finfo(logits.dtype).min / 2
    return (torch.logaddexp(logits.logsumexp(1), chosen) - chosen).mean()


class AgainstOthers(torch.autograd.Function):
    """`against_others` by the kernels, which hold a chunk's logits and make the gradients on the way."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        h, others, offset, chosen, hits = given
        wanted = Wanted(*ctx.needs_input_grad[:3])
        found = softmax_native.cross_entropy(h, others, offset, hits, 0.0, 1 / len(h), wanted, beside=chosen)
        ctx.save_for_backward(*given)
        ctx.ready = *found[1:], torch.expm1(-found.losses) / len(h)
        return found.losses.mean()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = outer
        ready, ctx.ready = ctx.ready, None  # handed over, not copied; whoever comes a second time has them made anew
        if ready is None or torch.is_grad_enabled() or tangents_are_possible():
            return *differentiated(ctx, factor), None
        asked = zip(ready, ctx.needs_input_grad[:4], strict=True)
        return *(g.mul_(factor) if want and g is not None else None for g, want in asked), None


def differentiated(ctx: Any, factor: Tensor) -> list[Tensor | None]:
    """The gradients by torch; where second derivatives are asked for, as functions of the inputs."""
    *given, hits = ctx.saved_tensors
    wanted, again = ctx.needs_input_grad[:4], torch.is_grad_enabled()
    with torch.enable_grad():
        views = [t.view_as(t) for t in given]
        asked = [t for t, want in zip(views, wanted, strict=True) if want]
        loss = against_others(views[0], views[1], views[2], views[3], hits)
        found = iter(torch.autograd.grad(loss, asked, factor, create_graph=again))
    return [next(found) if want else None for want in wanted]


def merged(items: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Each item once, in order: items of several draws weigh as much together."""
    once, place = items.unique(return_inverse=True)
    weights = log_q.new_zeros(len(once)).index_add_(0, place, (-log_q).exp())
    return once, -weights.log()
