"""A softmax for large vocabularies of which few words are frequent.

Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs", ICML 2017. Words are numbered by
falling frequency. The head knows the frequent ones and one entry per cluster of rarer ones; a cluster's own softmax,
on a narrower projection of h, is computed for the tokens alone whose target lies in it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from .softmax import Reduction, linear_cross_entropy


@final
class AdaptiveSoftmax(nn.Module):
    """Parameters and their names are those of torch.nn.AdaptiveLogSoftmaxWithLoss: state dicts go either way.

    Args:
        width: of h.
        vocabulary: words, the most frequent first.
        cutoffs: rising word numbers at which clusters begin, within 1..vocabulary-1; the first ends the head.
        divisor: cluster n, from 1, works on width // divisor**n columns, one at least.
        head_bias: whether the head has one; clusters have none.
    """

    def __init__(
        self, width: int, vocabulary: int, cutoffs: Sequence[int], *, divisor: float = 4.0, head_bias: bool = False
    ) -> None:
        super().__init__()
        borders = [0, *cutoffs, vocabulary]
        if not cutoffs or any(one >= other for one, other in pairwise(borders)):
            raise ValueError(f"cutoffs must rise within 1 to {vocabulary - 1}, not {list(cutoffs)}")
        if width < 1 or divisor < 1:
            raise ValueError(f"width and divisor must be at least 1, not {width} and {divisor}")
        self.width, self.vocabulary, self.borders = width, vocabulary, tuple(borders[1:])
        self.shortlist, self.clusters = cutoffs[0], len(cutoffs)
        self.head = nn.Linear(width, self.shortlist + self.clusters, bias=head_bias)
        self.tail = nn.ModuleList()
        for n, (first, last) in enumerate(pairwise(self.borders), start=1):
            narrow = max(1, int(width // divisor**n))
            self.tail.append(
                nn.Sequential(nn.Linear(width, narrow, bias=False), nn.Linear(narrow, last - first, bias=False))
            )

    def _cluster(self, n: int) -> tuple[Tensor, Tensor]:
        """The projection [narrow, width] and the words' weights [words, narrow]."""
        projection, words = self.tail[n].children()
        assert isinstance(projection, nn.Linear) and isinstance(words, nn.Linear)
        return projection.weight, words.weight

    def _check(self, h: Tensor) -> None:
        if h.dim() != 2 or h.shape[1] != self.width:
            raise ValueError(f"h must be [tokens, {self.width}], not {list(h.shape)}")

    def loss(self, h: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Mean cross-entropy, in nats, over the tokens that are not ignored; zero where all are.

        h [tokens, width], targets int64 [tokens]. ValueError where a target lies outside the vocabulary.
        """
        self._check(h)
        kept = targets != ignore_index
        wrong = (kept & ((targets < 0) | (targets >= self.vocabulary))).nonzero()
        if len(wrong):
            token = int(wrong[0])
            raise ValueError(
                f"target {int(targets[token])} of token {token} lies outside the vocabulary, 0 to {self.vocabulary - 1}"
            )
        if not bool(kept.all()):
            h, targets = h[kept], targets[kept]
        entries, rare = targets, h.new_zeros((), dtype=torch.promote_types(h.dtype, torch.float32))
        for n, (first, last) in enumerate(pairwise(self.borders)):
            inside = ((targets >= first) & (targets < last)).nonzero().squeeze(1)
            if not len(inside):
                continue
            entries = entries.index_fill(0, inside, self.shortlist + n)
            projection, words = self._cluster(n)
            narrow = functional.linear(h.index_select(0, inside), projection)
            chosen = targets.index_select(0, inside) - first
            rare = rare + linear_cross_entropy(narrow, words, None, chosen, reduction=Reduction.SUM)
        frequent = linear_cross_entropy(h, self.head.weight, self.head.bias, entries, reduction=Reduction.SUM)
        return (frequent + rare) / max(1, len(targets))

    def log_prob(self, h: Tensor) -> Tensor:
        """Log probabilities of all words, [tokens, vocabulary]."""
        self._check(h)
        head = functional.log_softmax(self.head(h), 1)
        parts = [head[:, : self.shortlist]]
        for n in range(self.clusters):
            entry = head[:, self.shortlist + n].unsqueeze(1)
            parts.append(entry + functional.log_softmax(self.tail[n](h), 1))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def top_k(self, h: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest words of each token: log probabilities [tokens, k], falling, and words, int64 [tokens, k].

        A cluster is looked into for the tokens alone where all of it is likelier than the k-th word found so far.
        """
        self._check(h)
        if not 1 <= k <= self.vocabulary:
            raise ValueError(f"k must lie within 1 to {self.vocabulary}, not {k}")
        head = functional.log_softmax(self.head(h), 1)
        best, words = head[:, : self.shortlist].topk(min(k, self.shortlist), 1)
        best = functional.pad(best, (0, k - best.shape[1]), value=float("-inf"))
        words = functional.pad(words, (0, k - words.shape[1]), value=-1)
        for n in range(self.clusters):
            entry = head[:, self.shortlist + n]
            promising = (entry > best[:, -1]).nonzero().squeeze(1)
            if not len(promising):
                continue
            inside = functional.log_softmax(self.tail[n](h[promising]), 1) + entry[promising].unsqueeze(1)
            found, at = inside.topk(min(k, inside.shape[1]), 1)
            both, ids = torch.cat([best[promising], found], 1), torch.cat([words[promising], at + self.borders[n]], 1)
            best[promising], order = both.topk(k, 1)
            words[promising] = ids.gather(1, order)
        return best, words

    def predict(self, h: Tensor) -> Tensor:
        """The likeliest word of each token, int64 [tokens]."""
        return self.top_k(h, 1)[1].squeeze(1)
