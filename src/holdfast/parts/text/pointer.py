"""Copying: a word of the reply is written by the network or taken from where it looks.

See, Liu & Manning, "Get To The Point: Summarization with Pointer-Generator Networks", ACL 2017, equations 8 and 9:

    P(w) = g P_vocabulary(w) + (1 - g) sum over the places j that hold w of alpha_j,   g = sigmoid(u . a + b)

Names, times and numbers that no reply ever held can be said that way.
"""

from collections.abc import Sequence
from typing import NamedTuple, final

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


class Copied(NamedTuple):
    """What can be copied."""

    tokens: Tensor  # [time] int64
    before: Tensor  # [time] int64: the token at the place before, -1 at the first
    within: Tensor  # [time] bool: whether it goes on the word that the token before it began


class Told(NamedTuple):
    """How likely what stands at each place was to come next."""

    copied: Tensor  # [time], from there
    written: Tensor  # [time], without looking there


@final
class PointerStep:
    """A decoder's step that also copies: what `DecoderStep` is for a beam search, the pointer's part put in.

    Words are copied whole, though attention points at their pieces one by one and may slide from one word into another.
    A piece within a word is copied only behind the piece that stands before it; and where a piece was copied, rather
    than written, and its word goes on, the word's next piece follows.

    Args:
        step: the decoder.
        gate: u and b.
        edges: which tokens begin, and which end, with a letter or digit that sticks to its neighbour: two of
            [vocabulary] bool. Without them tokens are words.
    """

    def __init__(self, step: DecoderStep, gate: nn.Linear, edges: tuple[Tensor, Tensor] | None = None) -> None:
        self.decoder, self.gate, self.edges = step, gate, edges
        self.sources: dict[int, Copied] = {}
        self.source_of: dict[int, int] = {}  # of each slot
        self.told: dict[int, Told | None] = {}  # of each slot, by its last step
        self.slots = step.slots

    def open_source(self, keys: Tensor, values: Tensor, tokens: Tensor) -> int:
        """As `DecoderStep.open_source`; tokens [time] int64 stand at the places."""
        source = self.decoder.open_source(keys, values)
        before, within = torch.cat([tokens.new_tensor([-1]), tokens[:-1]]), torch.zeros(len(tokens), dtype=torch.bool)
        if self.edges is not None:
            begins, ends = self.edges
            within[1:] = ends[tokens[:-1]] & begins[tokens[1:]]
        self.sources[source] = Copied(tokens, before, within)
        return source

    def close_source(self, source: int) -> None:
        self.decoder.close_source(source)
        del self.sources[source]

    def open(self, source: int, state: LayerState | Sequence[LayerState] | None = None) -> int:
        slot = self.decoder.open(source, state)
        self.source_of[slot] = source
        return slot

    def close(self, slot: int) -> None:
        self.decoder.close(slot)
        del self.source_of[slot]
        self.told.pop(slot, None)

    def copy(self, sources: Slots, targets: Slots) -> None:
        self.decoder.copy(sources, targets)
        pairs = [torch.as_tensor(slots).reshape(-1).tolist() for slots in (sources, targets)]
        self.source_of |= {into: self.source_of[chosen] for chosen, into in zip(*pairs, strict=True)}
        self.told |= {into: self.told.get(chosen) for chosen, into in zip(*pairs, strict=True)}

    def step(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As `DecoderStep.step`: log P [n, vocabulary] and alpha [n, longest open source]."""
        log_p, alpha = self.decoder.step(tokens, slots)
        g = self.gate(self.decoder.combined(slots)).sigmoid()  # [n, 1]
        p = log_p.exp_().mul_(g)
        shares = (1 - g) * alpha
        for row, (slot, token) in enumerate(zip(slots.tolist(), tokens.tolist(), strict=True)):
            source, place = self.sources[self.source_of[slot]], self.due(slot, token)
            copied = shares[row, : len(source.tokens)]
            if place is not None:
                copied.zero_()[place] = 1.0
                p[row].zero_()
            else:
                copied.masked_fill_(source.within & (source.before != token), 0.0)
            self.told[slot] = Told(copied, p[row, source.tokens])
            p[row].index_add_(0, source.tokens, copied).div_(p[row].sum().clamp_min(1e-30))
        return p.add_(1e-30).log_(), alpha

    def due(self, slot: int, token: int) -> int | None:
        """The place that must be copied behind a token, since that was copied from the beginning of the same word."""
        told, source = self.told.get(slot), self.sources[self.source_of[slot]]
        if told is None:
            return None
        copied = torch.where(source.tokens == token, told.copied, 0.0)
        place = int(copied.argmax())
        if place + 1 == len(copied) or not source.within[place + 1]:
            return None
        return place + 1 if copied.sum() > told.written[place] else None
