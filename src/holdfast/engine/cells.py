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
    normalised    i, f, g, o from N(W x) * gain_x + N(R h') * gain_h + b, and h = o * tanh(gain_c * N(c) + bias_c); N
                  takes mean and deviation out of a row (Ba, Kiros & Hinton, "Layer Normalization", 2016)
    exponential   i = exp(i~) with a normaliser n and a stabiliser m: h = o * c / n (sLSTM: Beck et al., "xLSTM", 2024)
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


class State(NamedTuple):
    """The two halves of an LSTM's memory. A tuple, so code written for torch.nn.LSTM's ``(h, c)`` takes it as it is."""

    h: Tensor  # [batch, hidden], or [batch, projection] where the layer projects; a stack adds an axis in front
    c: Tensor  # [batch, hidden]; of the exponential cell [3, batch, hidden]: c, n, m


class Weights(NamedTuple):
    """One layer, one direction. Rows in gate order i, f, g, o."""

    input: Tensor | None  # W [4 * hidden, features]; None: x is W x already, [..., 4 * hidden]
    recurrent: Tensor  # R [4 * hidden, hidden], or [4 * hidden, projection]
    bias: Tensor | None = None  # b [4 * hidden]: the sum of torch's two
    projection: Tensor | None = None  # P [projection, hidden]
    peephole: Tensor | None = None  # [3 * hidden], rows pi, pf, po
    gain_x: Tensor | None = None  # [4 * hidden]; with it and the next three W x, R h' and c are normalised
    gain_h: Tensor | None = None  # [4 * hidden]
    gain_c: Tensor | None = None  # [hidden]
    bias_c: Tensor | None = None  # [hidden]


class Zoneout(NamedTuple):
    """Probabilities of keeping h and c, and the seed of the draw; without a seed the expectation is taken."""

    h: float = 0.0
    c: float = 0.0
    seed: int | Tensor | None = None  # 0 <= seed < 2**64; a tensor holds one int64, read as if it had no sign


class Variant(NamedTuple):
    """What makes a cell another than the plain one, beside its weights."""

    coupled: bool = False  # the weights' rows of i then count for nothing
    exponential: bool = False
    h_mask: Tensor | None = None  # [batch, width of h]; no gradient flows into it
    zoneout: Zoneout = Zoneout()
    epsilon: float = 1e-5  # added to the variance where a cell is normalised

    def is_plain(self) -> bool:
        return not (self.coupled or self.exponential or self.zoneout.h or self.zoneout.c or self.h_mask is not None)

    def settled(self) -> "Variant":
        """The same with the seed as a number, which nobody can change before the backward pass reads it again."""
        seed = self.zoneout.seed
        if not isinstance(seed, Tensor):
            return self
        return self._replace(zoneout=self.zoneout._replace(seed=seed_number(seed)))


PLAIN = Variant()


class Step(NamedTuple):
    """What one step made."""

    state: State
    gates: tuple[Tensor, Tensor, Tensor, Tensor]  # i, f, g, o after their activations, each [batch, hidden]


def step(hoisted: Tensor, state: State, weights: Weights, variant: Variant, number: Tensor | int) -> Step:
    """One step. ``hoisted`` is W x + b for this step, [batch, 4 * hidden]; ``number`` counts each row's own steps."""
    seen = state.h if variant.h_mask is None else state.h * variant.h_mask
    recurrent = seen @ weights.recurrent.T  # [batch, 4 * hidden]
    if weights.gain_h is not None:
        recurrent = layer_norm(recurrent, weights.gain_h.shape, weights.gain_h, None, variant.epsilon)
    gates = hoisted + recurrent
    if variant.exponential:
        i, f, g, o, c = exponential_cell(gates, state.c)
        shown = o * c[0] / c[1]
    else:
        i, f, g, o, c = sigmoid_cell(gates, state.c, weights.peephole, variant.coupled)
        normal = c
        if weights.gain_c is not None:
            normal = layer_norm(c, weights.gain_c.shape, weights.gain_c, weights.bias_c, variant.epsilon)
        shown = o * normal.tanh()
    h = shown if weights.projection is None else shown @ weights.projection.T
    if variant.zoneout.h or variant.zoneout.c:
        keep_h, keep_c = zoneout_masks(variant.zoneout, number, c)
        h = keep_h * state.h + (1 - keep_h) * h if variant.zoneout.h else h
        c = keep_c * state.c + (1 - keep_c) * c
    return Step(State(h, c), (i, f, g, o))


def sigmoid_cell(gates: Tensor, c: Tensor, peephole: Tensor | None, coupled: bool) -> tuple[Tensor, ...]:
    """i, f, g, o and the new c, each [batch, hidden]."""
    i, f, g, o = gates.chunk(4, dim=-1)
    pi, pf, po = (None, None, None) if peephole is None else peephole.chunk(3)
    f = (f if pf is None else f + pf * c).sigmoid()
    i = 1 - f if coupled else (i if pi is None else i + pi * c).sigmoid()
    g = g.tanh()
    c = f * c + i * g
    o = (o if po is None else o + po * c).sigmoid()
    return i, f, g, o, c


def exponential_cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
    """i and f as they weigh, scaled by the stabiliser, g, o, and the new memory [3, batch, hidden]: c, n, m.

    h does not depend on m, which counts as a constant for the gradient.
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    c, n, m = memory
    empty = n == 0  # nothing to carry: the stabiliser starts at the first input
    log_f = torch.nn.functional.logsigmoid(f)
    scale = torch.where(empty, i, torch.maximum(log_f + m, i)).detach()
    carried = torch.where(empty, torch.zeros_like(f), (log_f + m - scale).clamp(max=0).exp())
    let_in, g, o = (i - scale).exp(), g.tanh(), o.sigmoid()
    memory = torch.stack([carried * c + let_in * g, carried * n + let_in, scale])
    return let_in, carried, g, o, memory


def zoneout_masks(zoneout: Zoneout, number: Tensor | int, c: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the step before each unit keeps, of h and of c: [batch, hidden] like c.

    Drawn by a counter-based generator from (seed, step, row, unit), as the kernels do: two keyed rounds of a 32-bit
    mixer, of whose words the upper 24 bits are compared with the probability.
    """
    if zoneout.seed is None:
        return torch.full_like(c, zoneout.h), torch.full_like(c, zoneout.c)
    batch, units = c.shape
    seed = seed_tensor(zoneout.seed)
    low, high = seed & _WORD, seed >> 32 & _WORD
    start = mixed(low + 0x9E3779B9 & _WORD)  # or seed 1 would begin with step 1 of seed 0
    first = mixed(torch.as_tensor(number).reshape(-1, 1) ^ start)  # [batch, 1], or [1, 1]
    second = mixed(first + high & _WORD)
    counter = torch.arange(batch * units).view(batch, units) & _WORD
    word = mixed(mixed(counter ^ first) + second & _WORD)
    other = mixed(word + second & _WORD)
    keep_h, keep_c = (torch.tensor([zoneout.h, zoneout.c]) * 2**24).long()  # of float32, as the kernels have them
    return ((word >> 8) < keep_h).to(c), ((other >> 8) < keep_c).to(c)


def seed_number(seed: int | Tensor | None) -> int:
    """A seed as the kernels take it; none is 0."""
    return int(seed) % 2**64 if isinstance(seed, Tensor) else seed or 0


def seed_tensor(seed: int | Tensor) -> Tensor:
    """A seed as tensors compute with it, and operators of torch: an int64 [] of the same 64 bits."""
    return seed if isinstance(seed, Tensor) else torch.tensor(seed - 2**64 if seed >= 2**63 else seed)


_WORD = 0xFFFFFFFF


def mixed(v: Tensor) -> Tensor:
    """A 32-bit word well mixed, in int64."""
    v = (v ^ v >> 16) * 0x21F0AAAD & _WORD
    v = (v ^ v >> 15) * 0xD35A2D97 & _WORD
    return v ^ v >> 15
