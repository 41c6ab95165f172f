"""The memory cell's arithmetic, plain and in every variant, one step at a time, in plain PyTorch.

The letters are those of the papers. For one row at one step, with x the input, h' and c' the state one step before:

    i = sigmoid(Wi x + Ri h' + bi)      how much of the new candidate is let in
    f = sigmoid(Wf x + Rf h' + bf)      how much of the old memory is kept
    g =    tanh(Wg x + Rg h' + bg)      the candidate
    o = sigmoid(Wo x + Ro h' + bo)      how much of the memory is shown
    c = f * c' + i * g                  the memory cell: a sum, so its gradient does not vanish by itself
    h = o * tanh(c)

Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, gave the cell with i and o; Gers,
Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12(10), 2000, added f. The gate order i, f, g, o is
torch.nn.LSTM's. The variants:

    peephole      i and f also see pi * c' and pf * c', o sees po * c (Gers & Schmidhuber, IJCNN 2000)
    coupled       i = 1 - f: what is forgotten makes room for what comes in (CIFG in Greff et al., "LSTM: A Search Space
                  Odyssey", IEEE TNNLS 28(10), 2017)
    projection    h = P (o * tanh(c)), narrower than c (Sak, Senior & Beaufays, Interspeech 2014)
    h_mask        R sees h' * mask, one mask for all steps (Gal & Ghahramani, "A Theoretically Grounded Application of
                  Dropout in Recurrent Neural Networks", NeurIPS 2016)
    zoneout       units keep their h or c of the step before, at random (Krueger et al., ICLR 2017)
    exponential   i = exp(i~) with a normaliser n and a stabiliser m: h = o * c / n (sLSTM: Beck et al., "xLSTM", 2024)
"""

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """The two halves of an LSTM's memory. A tuple, so code written for torch.nn.LSTM's ``(h, c)`` takes it as it is."""

    h: Tensor  # [batch, hidden], or [batch, projection] where the layer projects; a stack adds an axis in front
    c: Tensor  # [batch, hidden]; of the exponential cell [3, batch, hidden]: c, n, m


class Weights(NamedTuple):
    """One layer, one direction. Rows in gate order i, f, g, o."""

    input: Tensor  # W [4 * hidden, features]
    recurrent: Tensor  # R [4 * hidden, hidden], or [4 * hidden, projection]
    bias: Tensor | None = None  # b [4 * hidden]: the sum of torch's two
    projection: Tensor | None = None  # P [projection, hidden]
    peephole: Tensor | None = None  # [3 * hidden], rows pi, pf, po


class Zoneout(NamedTuple):
    """Probabilities of keeping h and c, and the seed of the draw; without a seed the expectation is taken."""

    h: float = 0.0
    c: float = 0.0
    seed: int | None = None  # 0 <= seed < 2**64


class Variant(NamedTuple):
    """What makes a cell another than the plain one, beside its weights."""

    coupled: bool = False  # the weights' rows of i then count for nothing
    exponential: bool = False
    h_mask: Tensor | None = None  # [batch, width of h]; no gradient flows into it
    zoneout: Zoneout = Zoneout()

    def is_plain(self) -> bool:
        return not (self.coupled or self.exponential or self.zoneout.h or self.zoneout.c or self.h_mask is not None)


PLAIN = Variant()


def step(hoisted: Tensor, state: State, weights: Weights, variant: Variant, number: Tensor | int) -> State:
    """One step. ``hoisted`` is W x + b for this step, [batch, 4 * hidden]; ``number`` counts each row's own steps."""
    seen = state.h if variant.h_mask is None else state.h * variant.h_mask
    gates = hoisted + seen @ weights.recurrent.T  # [batch, 4 * hidden]
    if variant.exponential:
        shown, c = exponential_cell(gates, state.c)
    else:
        shown, c = sigmoid_cell(gates, state.c, weights.peephole, variant.coupled)
    h = shown if weights.projection is None else shown @ weights.projection.T
    if not (variant.zoneout.h or variant.zoneout.c):
        return State(h, c)
    keep_h, keep_c = zoneout_masks(variant.zoneout, number, c)
    if variant.zoneout.h:
        h = keep_h * state.h + (1 - keep_h) * h
    return State(h, keep_c * state.c + (1 - keep_c) * c)


def sigmoid_cell(gates: Tensor, c: Tensor, peephole: Tensor | None, coupled: bool) -> tuple[Tensor, Tensor]:
    """What the cell shows, o * tanh(c), and its new c."""
    i, f, g, o = gates.chunk(4, dim=-1)
    if peephole is not None:
        pi, pf, po = peephole.chunk(3)
        i, f = i + pi * c, f + pf * c
    f = f.sigmoid()
    i = 1 - f if coupled else i.sigmoid()
    c = f * c + i * g.tanh()  # [batch, hidden]
    if peephole is not None:
        o = o + po * c  # pyright: ignore[reportPossiblyUnboundVariable]
    return o.sigmoid() * c.tanh(), c


def exponential_cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The same with exponential gating, memory [3, batch, hidden]: c, n, m. Of m it holds that h does not depend on it,
    so it counts as a constant for the gradient."""
    i, f, g, o = gates.chunk(4, dim=-1)
    c, n, m = memory
    empty = n == 0  # nothing to carry: the stabiliser starts at the first input
    log_f = torch.nn.functional.logsigmoid(f)
    scale = torch.where(empty, i, torch.maximum(log_f + m, i)).detach()
    carried = torch.where(empty, torch.zeros_like(f), (log_f + m - scale).clamp(max=0).exp())
    let_in = (i - scale).exp()
    c, n = carried * c + let_in * g.tanh(), carried * n + let_in
    return o.sigmoid() * c / n, torch.stack([c, n, scale])


def zoneout_masks(zoneout: Zoneout, number: Tensor | int, c: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the step before each unit keeps, of h and of c: [batch, hidden] like c.

    Drawn by a counter-based generator from (seed, step, row, unit), as the kernels do: two keyed rounds of a 32-bit
    mixer, of whose words the upper 24 bits are compared with the probability.
    """
    if zoneout.seed is None:
        return torch.full_like(c, zoneout.h), torch.full_like(c, zoneout.c)
    batch, units = c.shape
    low, high = zoneout.seed & _WORD, zoneout.seed >> 32
    start = mixed(torch.tensor(low + 0x9E3779B9 & _WORD))  # or seed 1 would begin with step 1 of seed 0
    first = mixed(torch.as_tensor(number).reshape(-1, 1) ^ start)  # [batch, 1], or [1, 1]
    second = mixed(first + high & _WORD)
    counter = torch.arange(batch * units).view(batch, units) & _WORD
    word = mixed(mixed(counter ^ first) + second & _WORD)
    other = mixed(word + second & _WORD)
    return ((word >> 8) < int(zoneout.h * 2**24)).to(c), ((other >> 8) < int(zoneout.c * 2**24)).to(c)


_WORD = 0xFFFFFFFF


def mixed(v: Tensor) -> Tensor:
    """A 32-bit word well mixed, in int64."""
    v = (v ^ v >> 16) * 0x21F0AAAD & _WORD
    v = (v ^ v >> 15) * 0xD35A2D97 & _WORD
    return v ^ v >> 15
