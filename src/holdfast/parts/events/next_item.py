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
    """What the LSTMs keep of each user, one member's layers after the other's."""

    h: Tensor  # [members * layers, batch, hidden]
    c: Tensor  # [members * layers, batch, hidden]


class Sizes(NamedTuple):
    """How large the parts are."""

    width: int  # of the embeddings
    hidden: int  # memory cells per layer
    layers: int = 1  # LSTM layers


@final
class Member(nn.Module):
    """One network: embeddings, an LSTM over them, and what both say of the next item.

    Args:
        items: how many, with item 0, which was never met.
        sizes: of the layers.
        dropout: of embeddings and outputs, while training.
        sparse: gradients of the embeddings hold the rows met only.
    """

    def __init__(self, items: int, sizes: Sizes, dropout: float, sparse: bool) -> None:
        super().__init__()
        self.dropout, self.sparse = dropout, sparse
        width, hidden, layers = sizes
        self.embedding = nn.Embedding(items, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.lstm = LSTM(width, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(hidden, width)
        self.last = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(items))

    def forward(self, items: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """items [batch, time] int64 -> vectors [batch, time, width] and the memory after the last step."""
        x = dropout(embedding(items, self.embedding.weight, sparse=self.sparse), self.dropout, self.training)
        y, (h, c) = self.lstm(x, memory)
        return self.vectors(x, y), Memory(h, c)

    def packed(self, items: PackedSequence, memory: Memory | None) -> tuple[PackedSequence, Memory]:
        """The same for rows of unequal length; the memory is that after each row's own last step."""
        x = items._replace(data=self.embedding(items.data))
        y, (h, c) = self.lstm(x, memory)
        return y._replace(data=self.vectors(x.data, y.data)), Memory(h, c)

    def vectors(self, x: Tensor, y: Tensor) -> Tensor:
        """[..., width] from the embedding of each event and what the LSTM made of it."""
        return self.out(dropout(y, self.dropout, self.training)) + self.last(x)


@final
class NextItem(nn.Module):
    """Item numbers in, a vector out whose products with the items' rows are their logits.

    Args:
        counts: [items + 1] int64: how often each item came; item 0 is one that was never met.
        sizes: of the layers of each member.
        members: networks that learn apart, each from its own first weights and its own dice; a logit is the mean of
            theirs (Hansen & Salamon, "Neural network ensembles", IEEE TPAMI 12(10), 1990). To whoever asks they are one
            network of as many times the width: vectors and rows stand side by side.
        dropout: of embeddings and outputs, while training.
        forgotten: share of events that are taken for unknown items while training.
        negatives: of every event, drawn with the counts' power of ``alpha``, where there are more items than
            LARGEST_FULL. Gradients of the embeddings then hold the rows met only (torch's sparse ones).
    """

    def __init__(
        self,
        counts: Tensor,
        sizes: Sizes,
        *,
        members: int = 1,
        dropout: float = 0.0,
        forgotten: float = 0.0,
        negatives: int = 2048,
        alpha: float = 0.75,
    ) -> None:
        super().__init__()
        self.sizes, self.forgotten, self.negatives, self.alpha = sizes, forgotten, negatives, alpha
        self.large = len(counts) > LARGEST_FULL  # too many items to tell each target from all others
        self.members = nn.ModuleList(Member(len(counts), sizes, dropout, self.large) for _ in range(members))
        self.register_buffer("counts", counts.clone())

    def each(self) -> list[Member]:
        """The members."""
        return list(self.members)  # pyright: ignore[reportReturnType]

    @property
    def memory_shape(self) -> tuple[int, int]:
        """Of h and c of one user."""
        return len(self.members) * self.sizes.layers, self.sizes.hidden

    @property
    def width(self) -> int:
        """Of a vector."""
        return len(self.members) * self.sizes.width

    def shares(self, memory: Memory | None) -> list[Memory | None]:
        """What belongs to each member."""
        if memory is None:
            return [None] * len(self.members)
        parts = (t.split(self.sizes.layers) for t in memory)
        return [Memory(h.contiguous(), c.contiguous()) for h, c in zip(*parts, strict=True)]

    def forward(self, items: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """items [batch, time] int64 -> vectors [batch, time, width] and the memory after the last step."""
        found = [one(self.met(items), own) for one, own in zip(self.each(), self.shares(memory), strict=True)]
        return torch.cat([vectors for vectors, _ in found], dim=-1), together([after for _, after in found])

    def met(self, items: Tensor) -> Tensor:
        """While training some events are taken for unknown items."""
        if not (self.training and self.forgotten):
            return items
        return items.masked_fill(torch.rand(items.shape) < self.forgotten, 0)

    def packed(self, items: PackedSequence, memory: Memory | None = None) -> tuple[PackedSequence, Memory]:
        """The same for rows of unequal length; the memory is that after each row's own last step."""
        found = [one.packed(items, own) for one, own in zip(self.each(), self.shares(memory), strict=True)]
        vectors = torch.cat([rows.data for rows, _ in found], dim=-1)
        return found[0][0]._replace(data=vectors), together([after for _, after in found])

    def loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, summed, the mean of the members': vectors [events, width], targets [events] int64,
        from 1."""
        drawn = self.sampler.draw(self.negatives, dice()) if self.large else None
        losses: list[Tensor] = []
        for one, own in zip(self.each(), vectors.split(self.sizes.width, dim=-1), strict=True):
            weight, bias = one.embedding.weight, one.bias
            if drawn is None:  # item 0 is a class too, which never comes and so soon weighs nothing
                losses.append(linear_cross_entropy(own, weight, bias, targets, reduction=Reduction.SUM))
            else:
                losses.append(sampled_softmax_loss(own, weight, bias, targets, *drawn, sparse=True) * len(targets))
        return torch.stack(losses).mean()

    def rows(self) -> tuple[Tensor, Tensor]:
        """[items + 1, width] and [items + 1]: a logit is vector . row + the second."""
        members = self.each()
        if len(members) == 1:  # not copied
            return members[0].embedding.weight, members[0].bias
        every = np.arange(len(members[0].bias))
        return self.rows_of(every), torch.stack([one.bias for one in members]).mean(0)

    def rows_of(self, items: np.ndarray) -> Tensor:
        """[items, width]: the rows of some items."""
        numbers = torch.from_numpy(items)
        return torch.cat([one.embedding(numbers) for one in self.each()], dim=1) / len(self.members)

    @functools.cached_property
    def sampler(self) -> NegativeSampler:
        counts: Tensor = self.counts  # pyright: ignore[reportAssignmentType]
        return NegativeSampler(counts, self.alpha)

    def logits(self, vectors: Tensor) -> Tensor:
        """[batch, width] -> [batch, items + 1], -inf for item 0."""
        logits = vectors.new_zeros(())
        for number, (one, own) in enumerate(zip(self.each(), vectors.split(self.sizes.width, dim=-1), strict=True)):
            its = linear(own, one.embedding.weight, one.bias)
            logits = logits.add_(its) if number else its
        logits = logits.div_(len(self.members)) if len(self.members) > 1 else logits
        logits[:, 0] = float("-inf")
        return logits

    def log_places(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """The log of each target's place among all items, the best 1: [events].

        What ranking is about: a network too sure of itself is not worse for it, as by cross-entropy it would be. Where
        there are more items than LARGEST_FULL, of every so many events one is placed: the effort stays the same.
        """
        items = len(self.counts)  # pyright: ignore[reportArgumentType]
        every = -(-items // LARGEST_FULL)
        vectors, targets = vectors[::every], targets[::every]
        step = max(1, BLOCK // items)
        places: list[Tensor] = []
        for first in range(0, len(targets), step):
            logits = self.logits(vectors[first : first + step])
            own = logits.gather(1, targets[first : first + step].unsqueeze(1))
            places.append((logits >= own).sum(1))
        return torch.cat(places).log()


def together(parts: Sequence[Memory]) -> Memory:
    """The memory of all members."""
    return Memory(*(torch.cat(side) for side in zip(*parts, strict=True)))


def dice() -> torch.Generator:
    """Dice thrown once by torch's own."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of numbers as [batch, time], zeros behind the shorter ones, and their lengths [batch]."""
    lengths = np.array([len(row) for row in rows])
    found = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found), torch.from_numpy(lengths)
