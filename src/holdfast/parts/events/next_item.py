"""The network: what a user did so far -> how likely each item comes next.

An LSTM over item embeddings with full-softmax cross-entropy at every position (GRU4Rec, Hidasi & Karatzoglou, CIKM
2018, as the field trains it today), the embedding of the last event added to the output, and the items' output weights
tied to their embeddings.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, linear
from torch.nn.utils.rnn import PackedSequence

from holdfast.engine import LSTM

from ..sampled_softmax import NegativeSampler, sampled_softmax_loss
from ..softmax import Reduction, linear_cross_entropy

LARGEST_FULL = 60_000  # items up to which every item is a negative of every event
BLOCK = 1 << 23  # logits held at once


class Memory(NamedTuple):
    """What an LSTM keeps of each user."""

    h: Tensor  # [layers, batch, hidden]
    c: Tensor  # [layers, batch, hidden]


@final
class NextItem(nn.Module):
    """Item numbers in, a vector out whose products with the items' embeddings are their logits.

    Args:
        counts: [items + 1] int64: how often each item came; item 0 is one that was never met.
        width: of the embeddings.
        hidden: memory cells per layer.
        layers: LSTM layers.
        dropout: of embeddings and outputs, while training.
        forgotten: share of events that are taken for unknown items while training.
        negatives: of every event, drawn with the counts' power of ``alpha``, where there are more items than
            LARGEST_FULL. Gradients of the embeddings then hold the rows met only (torch's sparse ones).
    """

    def __init__(
        self,
        counts: Tensor,
        width: int,
        hidden: int,
        *,
        layers: int = 1,
        dropout: float = 0.0,
        forgotten: float = 0.0,
        negatives: int = 2048,
        alpha: float = 0.75,
    ) -> None:
        super().__init__()
        self.dropout, self.forgotten, self.negatives, self.alpha = dropout, forgotten, negatives, alpha
        self.embedding = nn.Embedding(len(counts), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.lstm = LSTM(width, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(hidden, width)
        self.last = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(len(counts)))
        self.register_buffer("counts", counts.clone())

    def forward(self, items: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """items [batch, time] int64 -> vectors [batch, time, width] and the memory after the last step."""
        if self.training and self.forgotten:
            items = items.masked_fill(torch.rand(items.shape) < self.forgotten, 0)
        x = dropout(embedding(items, self.embedding.weight, sparse=self.large), self.dropout, self.training)
        y, (h, c) = self.lstm(x, memory)
        return self.vectors(x, y), Memory(h, c)

    def packed(self, items: PackedSequence, memory: Memory | None = None) -> tuple[PackedSequence, Memory]:
        """The same for rows of unequal length; the memory is that after each row's own last step."""
        x = items._replace(data=self.embedding(items.data))
        y, (h, c) = self.lstm(x, memory)
        return y._replace(data=self.vectors(x.data, y.data)), Memory(h, c)

    def vectors(self, x: Tensor, y: Tensor) -> Tensor:
        """[..., width] from the embedding of each event and what the LSTM made of it."""
        return self.out(dropout(y, self.dropout, self.training)) + self.last(x)

    def loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, summed: vectors [events, width], targets [events] int64, from 1."""
        weight, bias = self.embedding.weight, self.bias
        if not self.large:  # item 0 is a class too, which never comes and so soon weighs nothing
            return linear_cross_entropy(vectors, weight, bias, targets, reduction=Reduction.SUM)
        dice = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        drawn = self.sampler.draw(self.negatives, dice)
        return sampled_softmax_loss(vectors, weight, bias, targets, *drawn, sparse=True) * len(targets)

    @property
    def large(self) -> bool:
        """Whether there are too many items to tell each target from all others."""
        return len(self.bias) > LARGEST_FULL

    @functools.cached_property
    def sampler(self) -> NegativeSampler:
        counts: Tensor = self.counts  # pyright: ignore[reportAssignmentType]
        return NegativeSampler(counts, self.alpha)

    def logits(self, vectors: Tensor) -> Tensor:
        """[batch, width] -> [batch, items + 1], -inf for item 0."""
        logits = linear(vectors, self.embedding.weight, self.bias)
        logits[:, 0] = float("-inf")
        return logits

    def log_places(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """The log of each target's place among all items, the best 1: [events].

        What ranking is about: a network too sure of itself is not worse for it, as by cross-entropy it would be. Where
        there are more items than LARGEST_FULL, of every so many events one is placed: the effort stays the same.
        """
        every = -(-len(self.bias) // LARGEST_FULL)
        vectors, targets = vectors[::every], targets[::every]
        step = max(1, BLOCK // len(self.bias))
        places: list[Tensor] = []
        for first in range(0, len(targets), step):
            logits = self.logits(vectors[first : first + step])
            own = logits.gather(1, targets[first : first + step].unsqueeze(1))
            places.append((logits >= own).sum(1))
        return torch.cat(places).log()


def padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of numbers as [batch, time], zeros behind the shorter ones, and their lengths [batch]."""
    lengths = np.array([len(row) for row in rows])
    found = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found), torch.from_numpy(lengths)
