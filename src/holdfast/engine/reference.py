"""The LSTM in plain PyTorch: what every fast path must compute, written to be read. Its arithmetic is in cells.py.

Everything here is differentiable twice, forward and backward, under torch.func, in any dtype, on any device. It is a
Python loop over time: the truth, not the fast path.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from .cells import PLAIN, State, Variant, Weights, step

__all__ = ["State", "Weights", "gates", "lstm", "lstm_packed", "zero_state"]


def lstm(
    x: Tensor,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    variant: Variant = PLAIN,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a batch of sequences.

    Args:
        x: [time, batch, features].
        weights: of this layer and direction.
        state: the state before the first step; zeros where it is None.
        lengths: [batch] int64, how many steps each row really has, in any order, 0 allowed. None: all of them.
        reverse: run every row from its own last step to its first.
        variant: of the cell.

    Returns:
        y [time, batch, width of h], zero past a row's length, and the state after each row's own last step.
    """
    steps, batch, _ = x.shape
    state = zero_state(x, weights, variant) if state is None else state
    h, c = state
    if lengths is not None:  # what stands past a row's end is never read: 0 * NaN would reach a gradient
        runs_at = torch.arange(steps, device=x.device).unsqueeze(1) < lengths.to(x.device)  # [time, batch]
        x = torch.where(runs_at.unsqueeze(-1), x, torch.zeros_like(x))
    hoisted = input_sums(x, weights, variant)
    outputs: list[Tensor] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        number = t if not reverse else (steps if lengths is None else lengths) - 1 - t
        h_next, c_next = step(hoisted[t], State(h, c), weights, variant, number).state
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


def input_sums(x: Tensor, weights: Weights, variant: Variant) -> Tensor:
    """What x gives to the gates, W x + b or gain_x * N(W x) + b, [time, batch, 4 * hidden]."""
    hoisted = x if weights.input is None else x @ weights.input.T
    if weights.gain_x is not None:
        return layer_norm(hoisted, weights.gain_x.shape, weights.gain_x, weights.bias, variant.epsilon)
    return hoisted if weights.bias is None else hoisted + weights.bias


def lstm_packed(
    x: Tensor,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Tensor,
    reverse: bool = False,
    variant: Variant = PLAIN,
    padded: Callable[..., tuple[Tensor, State]] = lstm,
) -> tuple[Tensor, State]:
    """The same for a packed batch: x [sum of lengths, features], step by step the rows still running, longest first.

    `padded` is what runs the batch with gaps.
    """
    batch = lengths.shape[0]
    steps = int(lengths.max()) if batch else 0
    order = lengths.argsort(descending=True, stable=True)
    runs = torch.arange(steps).unsqueeze(1) < lengths[order]  # [time, batch longest first]
    at = torch.zeros(steps, batch, dtype=torch.int64).masked_scatter(runs, torch.arange(x.shape[0]))  # where in x it is
    apart = torch.where(runs.unsqueeze(-1).to(x.device), x[at.to(x.device)], x.new_zeros(()))
    y, last = padded(apart[:, order.argsort()], weights, state, lengths=lengths, reverse=reverse, variant=variant)
    return y[:, order][runs], last


def gates(
    x: Tensor,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    variant: Variant = PLAIN,
) -> Tensor:
    """i, f, g, o and c of every step, [5, time, batch, hidden], zero past a row's length."""
    steps, batch, _ = x.shape
    now = zero_state(x, weights, variant) if state is None else state
    ends = torch.full((batch,), steps) if lengths is None else lengths
    hoisted = input_sums(x, weights, variant)
    found = x.new_zeros((5, steps, batch, weights.recurrent.shape[0] // 4))
    for t in reversed(range(steps)) if reverse else range(steps):
        after, each = step(hoisted[t], now, weights, variant, ends - 1 - t if reverse else t)
        runs = (ends > t).to(x.device).unsqueeze(-1)  # [batch, 1]
        now = State(torch.where(runs, after.h, now.h), torch.where(runs, after.c, now.c))
        c = after.c[0] if variant.exponential else after.c
        found[:, t] = torch.where(runs, torch.stack((*each, c)), found[:, t])
    return found


def zero_state(x: Tensor, weights: Weights, variant: Variant = PLAIN) -> State:
    """The state of a memory that has seen nothing."""
    batch, hidden = x.shape[1], weights.recurrent.shape[0] // 4
    c = (3, batch, hidden) if variant.exponential else (batch, hidden)
    return State(x.new_zeros(batch, weights.recurrent.shape[1]), x.new_zeros(c))
