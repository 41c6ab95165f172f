"""A network that reads tokens and tells the next one.

The regularised LSTM of Merity, Keskar & Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018:
embeddings tied to the output, dropout of whole words, of every layer's input (the same features for all steps), and of
elements of R, and penalties on what the last layer says.
"""

from typing import Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.engine import Cell, LSTMStack, State

from ..sampled_softmax import NegativeSampler, sampled_softmax_loss
from ..softmax import Reduction, linear_cross_entropy

States = tuple[State, ...]  # one per layer


class Dropout(NamedTuple):
    """Shares left out while training."""

    words: float = 0.0  # whole words of the vocabulary, wherever they stand in the batch
    between: float = 0.0  # features of every layer's input, and of the output, for a whole row
    recurrent: float = 0.0  # elements of R


class Penalties(NamedTuple):
    """What is added to a token's nats while training (Merity, McCann & Socher, "Revisiting Activation Regularization
    for Language RNNs", 2017): each weight times a mean square of the last layer's features."""

    size: float = 0.0  # of h, dropout applied
    change: float = 0.0  # of h less h a token before


NO_PENALTIES: Final = Penalties()


@final
class LanguageNetwork(nn.Module):
    """Tokens [time, batch] -> h [time, batch, width], from which `losses` and `logits` tell the next token.

    Args:
        counts: [tokens] int64: how often each came.
        width: of embeddings and of the last layer.
        hidden: of the other layers.
        layers: LSTM layers.
        negatives: tokens a target is told from while training: half of them the commonest, the others drawn as often
            as they came to the power of 0.75; 0, or as many as there are, stands for all tokens.
        penalties: on h.
    """

    scale: Tensor  # [] by which an embedding is multiplied where it is read

    def __init__(
        self,
        counts: Tensor,
        width: int,
        hidden: int,
        layers: int,
        dropout: Dropout,
        negatives: int = 0,
        penalties: Penalties = NO_PENALTIES,
    ) -> None:
        super().__init__()
        self.rates, self.negatives, self.penalties = dropout, negatives, penalties
        self.embedding = nn.Embedding(len(counts), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # for the output; what is read has variance one
        # A buffer, so that weights learned without it are refused.
        self.register_buffer("scale", torch.tensor(width**0.5))
        sizes = [*[hidden] * (layers - 1), width]
        cell = Cell(weight_drop=dropout.recurrent, forget_bias=1.0)
        self.stack = LSTMStack(width, sizes, cell, dropout=dropout.between)
        # From the start as likely as they are often: Adam, whose steps are all alike, would take hundreds to get there.
        self.bias = nn.Parameter(((counts + 1) / (counts + 1).sum()).log())
        self.register_buffer("counts", counts.clone())

    def forward(self, tokens: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        """Read tokens [time, batch] after what the states remember."""
        x = functional.embedding(tokens, self.embedding.weight) * self.scale
        if self.training and self.rates.words:  # whole words (Gal & Ghahramani 2016, section 4.2)
            kept = functional.dropout(x.new_ones(len(self.bias), 1), self.rates.words)
            x = x * functional.embedding(tokens, kept)
        h, after = self.stack(x, None if states is None else list(states))
        return h, tuple(after)

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """Nats of all targets [time, batch] after h [time, batch, width]; while training with the penalties."""
        dropped = self.stack.drop(h)
        nats = self.cross_entropy(dropped.flatten(0, 1), targets.flatten())
        if not self.training:
            return nats
        if self.penalties.size:
            nats = nats + self.penalties.size * targets.numel() * dropped.square().mean()
        if self.penalties.change and len(h) > 1:
            nats = nats + self.penalties.change * targets.numel() * (h[1:] - h[:-1]).square().mean()
        return nats

    def cross_entropy(self, h: Tensor, targets: Tensor) -> Tensor:
        """In nats, summed: h [tokens, width], targets [tokens]."""
        weight, bias = self.embedding.weight, self.bias
        if not (self.training and 0 < self.negatives < len(weight)):
            return linear_cross_entropy(h, weight, bias, targets, reduction=Reduction.SUM)
        counts: Tensor = self.counts  # pyright: ignore[reportAssignmentType]
        dice = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        always = min(self.negatives, int((counts > 0).sum())) // 2
        drawn = NegativeSampler(counts, 0.75, always).draw(self.negatives, dice)
        # Sparse: added to the gradient of what was read, which is dense, without a matrix of zeros of its own.
        return sampled_softmax_loss(h, weight, bias, targets, *drawn, sparse=True) * len(targets)

    def log_probabilities(self, h: Tensor) -> Tensor:
        """[..., width] -> [..., tokens]."""
        return functional.linear(h, self.embedding.weight, self.bias).log_softmax(-1)
