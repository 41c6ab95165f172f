"""Copying: a word of the reply is written by the network or taken from where it looks.

See, Liu & Manning, "Get To The Point: Summarization with Pointer-Generator Networks", ACL 2017, equations 8 and 9:

    P(w) = g P_vocabulary(w) + (1 - g) sum over the places j that hold w of alpha_j,   g = sigmoid(u . a + b)

Names, times and numbers that no reply ever held can be said that way.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from holdfast.engine.decoder import DecoderStep, LayerState
from holdfast.engine.stream import Slots

LEAST = 1e-9  # probability of a copy that points nowhere near


def pointed(alpha: Tensor, source: Tensor, targets: Tensor) -> Tensor:
    """Probability that a copy is the target.

    Args:
        alpha: [batch, steps, time], where was looked.
        source: [batch, time] int64, what stands there.
        targets: [batch, steps] int64.

    Returns:
        [batch, steps].
    """
    return (alpha * (source.unsqueeze(1) == targets.unsqueeze(2))).sum(-1)


def mixed_surprise(written: Tensor, gate: Tensor, copied: Tensor) -> Tensor:
    """-log P, all of one shape: ``written`` is the vocabulary's -log P, ``gate`` is g before the sigmoid."""
    return -torch.logaddexp(logsigmoid(gate) - written, logsigmoid(-gate) + (copied + LEAST).log())


@final
class PointerStep:
    """A decoder's step that also copies: what `DecoderStep` is for a beam search, the pointer's part put in.

    Args:
        step: the decoder.
        gate: u and b.
    """

    def __init__(self, step: DecoderStep, gate: nn.Linear) -> None:
        self.decoder, self.gate = step, gate
        self.tokens: dict[int, Tensor] = {}  # of each source, [time]
        self.source_of: dict[int, int] = {}  # of each slot
        self.slots = step.slots

    def open_source(self, keys: Tensor, values: Tensor, tokens: Tensor) -> int:
        """As `DecoderStep.open_source`; tokens [time] int64 stand at the places."""
        source = self.decoder.open_source(keys, values)
        self.tokens[source] = tokens
        return source

    def close_source(self, source: int) -> None:
        self.decoder.close_source(source)
        del self.tokens[source]

    def open(self, source: int, state: LayerState | Sequence[LayerState] | None = None) -> int:
        slot = self.decoder.open(source, state)
        self.source_of[slot] = source
        return slot

    def close(self, slot: int) -> None:
        self.decoder.close(slot)
        del self.source_of[slot]

    def copy(self, sources: Slots, targets: Slots) -> None:
        self.decoder.copy(sources, targets)
        pairs = [torch.as_tensor(slots).reshape(-1).tolist() for slots in (sources, targets)]
        self.source_of |= {into: self.source_of[chosen] for chosen, into in zip(*pairs, strict=True)}

    def step(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As `DecoderStep.step`: log P [n, vocabulary] and alpha [n, longest open source]."""
        log_p, alpha = self.decoder.step(tokens, slots)
        g = self.gate(self.decoder.combined(slots)).sigmoid()  # [n, 1]
        p = log_p.exp_().mul_(g)
        shares = (1 - g) * alpha
        for row, slot in enumerate(slots.tolist()):
            source = self.tokens[self.source_of[slot]]
            p[row].index_add_(0, source, shares[row, : len(source)])
        return p.add_(1e-30).log_(), alpha
