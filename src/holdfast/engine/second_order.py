"""The gradient as a function that is itself differentiable, in every way: by the reference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from .backend import SECOND_ORDER, count
from .cells import PLAIN, State, Variant, Weights


def pull_back(
    grads: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant = PLAIN,
) -> tuple[Tensor | None, ...]:
    """The gradients of `inputs`: x, h0, c0 and the weights in the order of Weights. Of what is None it is None.

    `grads` are those of y, h and c, None for zero.
    """
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return pull_back(grads, inputs, lengths, reverse, variant)
    count(SECOND_ORDER)
    places = [n for n, t in enumerate(inputs) if t is not None]

    def run(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, h0, c0, *weights = filled(inputs, places, values)
        return forward(x, h0, c0, Weights(*weights), lengths, reverse, variant)  # pyright: ignore[reportArgumentType]

    pulled: Any = torch.func.vjp(run, *(inputs[n] for n in places))
    outputs, pull = pulled
    full = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, grads, strict=True))
    return tuple(filled([None] * len(inputs), places, pull(full)))


def forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Weights,
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h and c by the reference; x [time, batch, features], or packed with lengths.

    In x's dtype also under autocast, which the tensors have behind them.
    """
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return forward(x, h0, c0, weights, lengths, reverse, variant)
    batch = x.shape[1] if lengths is None else lengths.shape[0]
    zero = reference.zero_state(x.new_zeros(0, batch, 1), weights, variant)
    state = State(zero.h if h0 is None else h0, zero.c if c0 is None else c0)
    if x.dim() == 2 and lengths is not None:
        y, last = reference.lstm_packed(x, weights, state, lengths=lengths, reverse=reverse, variant=variant)
    else:
        y, last = reference.lstm(x, weights, state, lengths=lengths, reverse=reverse, variant=variant)
    return y, last.h, last.c


def filled(whole: Sequence[Tensor | None], places: list[int], values: Sequence[Tensor]) -> list[Tensor | None]:
    """`whole` with these values in these places."""
    new = list(whole)
    for place, value in zip(places, values, strict=True):
        new[place] = value
    return new
