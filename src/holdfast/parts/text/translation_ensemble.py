"""Translators that learn apart and write together: what they are unsure of in different ways is averaged out.

Sutskever, Vinyals & Le, "Sequence to Sequence Learning with Neural Networks", NIPS 2014, table 1: five LSTMs
in place of one are worth four BLEU. Here the next token's probability is the mean of the members'.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from holdfast.engine.decoder import DecoderStep, LayerState
from holdfast.engine.stream import Precision, Slots

from .attention import Source
from .translation_network import Dropout, Encoded, Sizes, TranslationNetwork


@final
class TranslationEnsemble(nn.Module):
    """What `TranslationNetwork` is, several of them side by side.

    Each has its own first weights and its own dice. What is read and what is remembered stands side by side, too: keys,
    values and a are as many times as wide, and each member's decoder layers follow those of the one before.

    Args:
        members: how many.
        others: as `TranslationNetwork`.
    """

    def __init__(
        self,
        members: int,
        vocabulary: int,
        sizes: Sizes,
        dropout: Dropout,
        input_feeding: bool = True,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.members = nn.ModuleList(
            TranslationNetwork(vocabulary, sizes, dropout, input_feeding, smoothing) for _ in range(members)
        )

    @property
    def every(self) -> list[TranslationNetwork]:
        """The members."""
        return list(self.members)  # pyright: ignore[reportReturnType]

    def encode(self, tokens: Tensor, lengths: Tensor) -> Encoded:
        """Read source tokens [time, batch] of these lengths, at least 1."""
        read = [member.encode(tokens, lengths) for member in self.every]
        keys, values = (torch.cat(side, dim=2) for side in zip(*(one.source[:2] for one in read), strict=True))
        h, c = (torch.cat(state) for state in zip(*(one[1:] for one in read), strict=True))
        return Encoded(Source(keys, values, read[0].source.outside), h, c)

    def forward(self, encoded: Encoded, tokens: Tensor) -> Tensor:
        """a of every member at every step [time, batch, members * width], the tokens [time, batch] before each."""
        count = len(self.members)
        parts = (t.chunk(count, dim=2) for t in encoded.source[:2])
        states = (t.chunk(count) for t in (encoded.h, encoded.c))
        each = zip(self.every, *parts, *states, strict=True)
        outside = encoded.source.outside
        return torch.cat(
            [member(Encoded(Source(keys, values, outside), h, c), tokens) for member, keys, values, h, c in each],
            dim=2,
        )

    def loss(self, a: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, summed, the mean of the members': each learns for itself."""
        parts = a.chunk(len(self.members), dim=2)
        losses = [member.loss(part, targets) for member, part in zip(self.every, parts, strict=True)]
        return torch.stack(losses).mean()

    def step(self, slots: int, precision: Precision = "highest") -> "EnsembleStep":
        """The decoder for writing, one step of some hypotheses at a time, with the weights as they are now."""
        return EnsembleStep([member.step(slots, precision) for member in self.every])


@final
class EnsembleStep:
    """Decoders' steps in lockstep: what `DecoderStep` is for a beam search. Errors are those of `DecoderStep`.

    Args:
        steps: of the members; nobody else opens or closes anything in them.
    """

    def __init__(self, steps: Sequence[DecoderStep]) -> None:
        self.steps, self.slots = steps, steps[0].slots

    def open_source(self, keys: Tensor, values: Tensor) -> int:
        """keys [time, all members' width of s] and values [time, all remembered]: a handle."""
        count = len(self.steps)
        parts = zip(self.steps, keys.chunk(count, dim=1), values.chunk(count, dim=1), strict=True)
        return same([step.open_source(*own) for step, *own in parts])

    def close_source(self, source: int) -> None:
        for step in self.steps:
            step.close_source(source)

    def open(self, source: int, state: Sequence[LayerState]) -> int:
        """Begin a hypothesis; the state is of every layer of every member, theirs in turn."""
        layers = len(state) // len(self.steps)
        return same([step.open(source, state[n * layers : (n + 1) * layers]) for n, step in enumerate(self.steps)])

    def close(self, slot: int) -> None:
        for step in self.steps:
            step.close(slot)

    def copy(self, sources: Slots, targets: Slots) -> None:
        for step in self.steps:
            step.copy(sources, targets)

    def step(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As `DecoderStep.step`: the log of the members' mean probabilities, [n, vocabulary], and their mean alpha."""
        each = [step.step(tokens, slots) for step in self.steps]
        log_p, alpha = (torch.stack(side) for side in zip(*each, strict=True))
        return log_p.logsumexp(0).sub_(math.log(len(each))), alpha.mean(0)


def same(handles: Sequence[int]) -> int:
    """The handle that all members gave: they have opened and closed the same."""
    if len(set(handles)) > 1:
        raise RuntimeError(f"members gave the handles {list(handles)}: somebody else opened or closed one of theirs")
    return handles[0]
