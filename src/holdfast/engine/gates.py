"""The gates at work: what each let in, kept and showed, step by step. For looking at; no gradient flows back."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import native, reference
from .cells import PLAIN, State, Variant, Weights


class Gates(NamedTuple):
    """Each [time, batch, hidden], zero past a row's length.

    Of the exponential cell i and f are the weights in force, exp(i~ - m) and exp(log f + m' - m).
    """

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    c: Tensor


@torch.no_grad()
def gates(
    x: Tensor,
    weights: Weights,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    variant: Variant = PLAIN,
) -> Gates:
    """The gates and cell states of every step of one layer in one direction; arguments as for `holdfast.lstm`."""
    if native.available() and x.is_cpu and x.dtype == torch.float32:
        return native_gates(x, weights, state, lengths, reverse, variant)
    return Gates(*reference.gates(x, weights, state, lengths=lengths, reverse=reverse, variant=variant))


def native_gates(
    x: Tensor, weights: Weights, state: State | None, lengths: Tensor | None, reverse: bool, variant: Variant
) -> Gates:
    """What the kernels keep for the backward pass, in the caller's order."""
    h0, c0 = (None, None) if state is None else state
    kept = native.forward(x, weights, h0, c0, lengths, reverse=reverse, keep=True, variant=variant)[3]
    assert kept is not None
    steps, batch, _ = x.shape
    own = native.unpack_kept(kept, weights, variant)  # [row-steps, 5, hidden]
    ends = torch.full((batch,), steps) if lengths is None else lengths
    order = ends.argsort(descending=True, stable=True)
    runs = torch.arange(steps).unsqueeze(1) < ends[order]  # [step, place]
    number = torch.arange(steps).unsqueeze(1).expand(runs.shape)
    time = (ends[order] - 1 - number if reverse else number)[runs]
    found = x.new_zeros((5, steps, batch, own.shape[2]))
    found[:, time, order.expand(runs.shape)[runs]] = own.transpose(0, 1)
    return Gates(*found)
