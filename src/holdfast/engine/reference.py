"""The LSTM in plain PyTorch: what every fast path must compute, written to be read.

The letters are those of the papers. For one row at one step, with x the input, h' and c' the state one step before:

    i = sigmoid(Wi x + Ri h' + bi)      how much of the new candidate is let in
    f = sigmoid(Wf x + Rf h' + bf)      how much of the old memory is kept
    g =    tanh(Wg x + Rg h' + bg)      the candidate
    o = sigmoid(Wo x + Ro h' + bo)      how much of the memory is shown
    c = f * c' + i * g                  the memory cell: a sum, so its gradient does not vanish by itself
    h = o * tanh(c)

Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, gave the cell with i and o; Gers,
Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12(10), 2000, added f. The projection
h = P (o * tanh(c)) is from Sak, Senior & Beaufays, Interspeech 2014. The gate order i, f, g, o is torch.nn.LSTM's.

Everything here is differentiable twice, forward and backward, under torch.func, in any dtype, on any device. It is a
Python loop over time: the truth, not the fast path.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """The two halves of an LSTM's memory. A tuple, so code written for torch.nn.LSTM's ``(h, c)`` takes it as it is."""

    h: Tensor  # [batch, hidden], or [batch, projection] where the layer projects; a stack adds an axis in front
    c: Tensor  # [batch, hidden]


class Weights(NamedTuple):
    """One layer, one direction. Rows in gate order i, f, g, o."""

    input: Tensor  # W [4 * hidden, features]
    recurrent: Tensor  # R [4 * hidden, hidden], or [4 * hidden, projection]
    bias: Tensor | None = None  # b [4 * hidden]: the sum of torch's two
    projection: Tensor | None = None  # P [projection, hidden]


def lstm(
    x: Tensor,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a batch of sequences.

    Args:
        x: [time, batch, features].
        weights: of this layer and direction.
        state: the state before the first step; zeros where it is None.
        lengths: [batch] int64, how many steps each row really has, in any order, 0 allowed. None: all of them.
        reverse: run every row from its own last step to its first.

    Returns:
        y [time, batch, hidden], zero past a row's length, and the state after each row's own last step.
    """
    steps, batch, _ = x.shape
    state = zero_state(x, weights) if state is None else state
    h, c = state
    if lengths is not None:  # what stands past a row's end is never read: 0 * NaN would reach a gradient
        runs_at = torch.arange(steps, device=x.device).unsqueeze(1) < lengths.to(x.device)  # [time, batch]
        x = torch.where(runs_at.unsqueeze(-1), x, torch.zeros_like(x))
    hoisted = x @ weights.input.T  # [time, batch, 4 * hidden]
    if weights.bias is not None:
        hoisted = hoisted + weights.bias
    outputs: list[Tensor] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        h_next, c_next = cell(hoisted[t], State(h, c), weights)
        if lengths is None:
            h, c, y = h_next, c_next, h_next
        else:  # a row that is over, or in reverse has not begun, keeps its state and shows nothing
            runs = (lengths > t).to(x.device).unsqueeze(-1)  # [batch, 1]
            h, c = torch.where(runs, h_next, h), torch.where(runs, c_next, c)
            y = torch.where(runs, h_next, torch.zeros_like(h_next))
        outputs.append(y)
    if reverse:
        outputs.reverse()
    y = torch.stack(outputs) if outputs else x.new_zeros((0, batch, weights.recurrent.shape[1]))
    return y, State(h, c)


def lstm_packed(
    x: Tensor, weights: Weights, state: State | None = None, *, lengths: Tensor, reverse: bool = False
) -> tuple[Tensor, State]:
    """The same for a packed batch: x [sum of lengths, features], step by step the rows still running, longest first."""
    batch, steps = lengths.shape[0], int(lengths.max())
    order = lengths.argsort(descending=True, stable=True)
    runs = torch.arange(steps).unsqueeze(1) < lengths[order]  # [time, batch longest first]
    at = torch.zeros(steps, batch, dtype=torch.int64).masked_scatter(runs, torch.arange(x.shape[0]))  # where in x it is
    padded = torch.where(runs.unsqueeze(-1).to(x.device), x[at.to(x.device)], x.new_zeros(()))
    y, last = lstm(padded[:, order.argsort()], weights, state, lengths=lengths, reverse=reverse)
    return y[:, order][runs], last


def cell(hoisted: Tensor, state: State, weights: Weights) -> State:
    """One step. ``hoisted`` is W x + b for this step, [batch, 4 * hidden]."""
    i, f, g, o = (hoisted + state.h @ weights.recurrent.T).chunk(4, dim=-1)
    c = f.sigmoid() * state.c + i.sigmoid() * g.tanh()  # [batch, hidden]
    h = o.sigmoid() * c.tanh()
    return State(h if weights.projection is None else h @ weights.projection.T, c)


def zero_state(x: Tensor, weights: Weights) -> State:
    """The state of a memory that has seen nothing."""
    batch, hidden = x.shape[1], weights.input.shape[0] // 4
    return State(x.new_zeros(batch, weights.recurrent.shape[1]), x.new_zeros(batch, hidden))
