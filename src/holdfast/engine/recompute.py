"""Very long sequences: only the states at the borders of chunks are kept, and each chunk is computed again backwards.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; for recurrent networks Gruslys et al., NeurIPS 2016.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import PLAIN, State, Variant, Weights
from .functional import check, lstm
from .reference import zero_state

CHUNK: Final = 1024  # steps


def lstm_recomputed(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None = None,
    *,
    chunk: int = CHUNK,
    variant: Variant = PLAIN,
) -> tuple[Tensor, State]:
    """`lstm` over full rows forward in time, with memory for one chunk of steps in place of all.

    The backward pass needs x and the states every ``chunk`` steps, and while it runs what a plain call keeps for one
    chunk; the price is a second forward pass. Outputs and the gradients of x and of the state are those of a plain
    call to the bit; those of the weights are sums of the chunks' sums, which round differently.

    Args:
        x: [time, batch, features].
        weights: as `lstm` takes them.
        state: (h, c); zeros where it is None.
        chunk: steps, at least 1.

    Returns:
        y [time, batch, width of h] and the state after the last step.

    Raises:
        ValueError: a shape does not fit, chunk is below 1, or zoneout is drawn, whose dice count a call's steps.
    """
    check(x, weights, None)
    if chunk < 1:
        raise ValueError(f"chunk counts steps, at least 1, not {chunk}")
    if variant.zoneout.seed is not None:
        raise ValueError("zoneout is drawn by the steps of one call: use lstm for it")
    before = zero_state(x, weights, variant) if state is None else State(*state)
    if not torch.is_grad_enabled():
        return lstm(x, weights, before, variant=variant)
    y, h, c = Recomputed.apply(chunk, variant, x, *before, *weights)  # pyright: ignore[reportGeneralTypeIssues]
    return y, State(h, c)


class Recomputed(torch.autograd.Function):
    """All chunks as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, chunk: int, variant: Variant, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, h, c, *flat = inputs
        state, borders, weights = State(h, c), [], Weights(*flat)
        y = x.new_empty((*x.shape[:2], weights.recurrent.shape[1]))
        for first in range(0, len(x), chunk):
            borders += [*state]
            y[first : first + chunk], state = lstm(x[first : first + chunk], weights, state, variant=variant)
        ctx.save_for_backward(x, *flat, *borders)
        ctx.chunk, ctx.variant = chunk, variant
        ctx.set_materialize_grads(False)
        last = _no_inputs(state, h, c)
        return y, last.h, last.c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *saved = ctx.saved_tensors
        count = len(Weights._fields)
        flat, borders = saved[:count], saved[count:]
        wanted = ctx.needs_input_grad[2:]
        dy, dh, dc = outer
        dx = torch.empty_like(x) if wanted[0] else None
        sums: list[Tensor | None] = [
            torch.zeros_like(w) if want else None for w, want in zip(flat, wanted[3:], strict=True)
        ]
        for n in reversed(range(len(borders) // 2)):
            steps = slice(n * ctx.chunk, (n + 1) * ctx.chunk)
            piece = [x[steps], *borders[2 * n : 2 * n + 2], *flat]
            grads = (None if dy is None else dy[steps], dh, dc)
            found = again(piece, [wanted[0], True, True, *wanted[3:]], grads, ctx.variant)
            if dx is not None and found[0] is not None:
                dx[steps] = found[0]
            dh, dc = found[1:3]
            for total, part in zip(sums, found[3:], strict=True):
                if total is not None and part is not None:
                    total += part
        return None, None, dx, *(d if want else None for d, want in zip((dh, dc), wanted[1:3], strict=True)), *sums


def _no_inputs(state: State, h: Tensor, c: Tensor) -> State:
    """A node must not give back what it was given, as it would where there are no steps."""
    return State(state.h.clone() if state.h is h else state.h, state.c.clone() if state.c is c else state.c)


def again(
    inputs: list[Tensor | None], wanted: list[bool], outer: tuple[Tensor | None, ...], variant: Variant
) -> list[Tensor | None]:
    """A chunk's gradients: its forward pass once more, with a graph this time, and then back through it."""
    own = [None if t is None else t.detach().requires_grad_(want) for t, want in zip(inputs, wanted, strict=True)]
    x, h, c, *flat = own
    assert x is not None and h is not None and c is not None
    with torch.enable_grad():
        y, last = lstm(x, Weights(*flat), State(h, c), variant=variant)  # pyright: ignore[reportArgumentType]
    given = [(out, g) for out, g in zip((y, *last), outer, strict=True) if g is not None]
    asked = [t for t, want in zip(own, wanted, strict=True) if want and t is not None]
    if not given:
        return [None] * len(own)
    found = iter(torch.autograd.grad([o for o, _ in given], asked, [g for _, g in given], allow_unused=True))
    return [next(found) if want and t is not None else None for t, want in zip(own, wanted, strict=True)]
