"""Very long sequences in flat memory: what the backward pass needs is made again, chunk by chunk.

A layer keeps five numbers per unit and step for its backward pass: 100,000 steps of 64 units are 128 MB, for each row.
Here only x, y and the state at every chunk's border are kept, and the forward pass of a chunk runs once more when its
gradient is wanted (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): a third more work.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native
from .backend import NATIVE, NATIVE_BFLOAT16, choose, count, tangents_are_possible
from .bfloat16 import wide, wide_state, wide_weights
from .cells import PLAIN, State, Variant, Weights, seed_number
from .functional import lstm
from .second_order import pull_back


def lstm_recomputed(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None = None,
    *,
    chunk: int = 1000,
    lengths: Tensor | None = None,
    variant: Variant = PLAIN,
) -> tuple[Tensor, State]:
    """`holdfast.lstm`, forwards in time, keeping only the states at the borders of chunks for the backward pass.

    y, the states and the gradients of x and of the states have the bits of the plain call; the weights' gradients are
    summed chunk by chunk and agree to rounding. Zoneout draws anew in every chunk. Where the native kernels cannot take
    the call it is the plain one.

    Args:
        chunk: steps between borders.
        x, weights, state, lengths, variant: as for `holdfast.lstm`.
    """
    if chunk < 1:
        raise ValueError(f"a chunk has at least one step, not {chunk}")
    choice = choose(x, weights, lengths, variant)
    h0, c0 = (None, None) if state is None else state
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h0, c0, *weights))
    ours = choice is NATIVE or choice is NATIVE_BFLOAT16
    if x.dim() != 3 or x.shape[0] <= chunk or not ours or not wanted:
        return lstm(x, weights, state, lengths=lengths, variant=variant)
    count(choice)
    if choice.bfloat16:
        variant = variant._replace(h_mask=wide(variant.h_mask))
        h0, c0 = wide_state(state) or (None, None)
        x, weights = wide(x), wide_weights(weights)
    chunks = Chunks(chunk, lengths, variant.settled(), choice.bfloat16)
    y, h, c = RecomputedLSTM.apply(chunks, x, h0, c0, *weights)
    return (y.bfloat16(), State(h.bfloat16(), c.bfloat16())) if choice.bfloat16 else (y, State(h, c))


class Chunks(NamedTuple):
    """How a sequence is cut."""

    size: int  # steps
    lengths: Tensor | None
    variant: Variant
    bfloat16: bool

    def of(self, first: int, steps: int) -> tuple[Tensor | None, Variant]:
        """The lengths and the variant of the chunk that begins with step `first`."""
        left = None if self.lengths is None else (self.lengths - first).clamp(0, steps)
        zoneout = self.variant.zoneout
        if zoneout.seed is None:
            return left, self.variant
        seed = (seed_number(zoneout.seed) + first) % 2**64
        # Its draw counts steps from the chunk's first on.
        return left, self.variant._replace(zoneout=zoneout._replace(seed=seed))


class RecomputedLSTM(torch.autograd.Function):
    """All chunks as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        chunks, x, h, c, *flat = args
        weights = Weights(*flat)
        borders: list[Tensor | None] = []
        y = x.new_empty((*x.shape[:2], weights.recurrent.shape[1]))
        for first in range(0, len(x), chunks.size):
            part = x[first : first + chunks.size]
            lengths, variant = chunks.of(first, len(part))
            borders += [h, c]
            y[first : first + len(part)], h, c, _ = native.forward(
                part, weights, h, c, lengths, reverse=False, keep=False, variant=variant, bfloat16=chunks.bfloat16
            )
        ctx.save_for_backward(chunks.variant.h_mask, x, args[2], args[3], *flat, *borders)
        ctx.set_materialize_grads(False)
        ctx.chunks = chunks
        return y, h, c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        mask, *saved = ctx.saved_tensors  # the mask, so that autograd notices when it is changed meanwhile
        chunks = ctx.chunks._replace(variant=ctx.chunks.variant._replace(h_mask=mask))
        wanted = ctx.needs_input_grad[1:]
        count_of_inputs = 3 + len(Weights._fields)
        inputs, borders = saved[:count_of_inputs], saved[count_of_inputs:]
        if torch.is_grad_enabled() or tangents_are_possible():
            if chunks.variant.zoneout.seed is not None:
                raise NotImplementedError(
                    "lstm_recomputed has no gradient of a gradient where zoneout is drawn: holdfast.lstm has"
                )
            flat = pull_back(grads, inputs, chunks.lengths, False, chunks.variant)
        else:
            flat = chunked_backward(grads, inputs, borders, chunks, wanted[0])
        return None, *(d if want else None for d, want in zip(flat, wanted, strict=True))


def chunked_backward(
    grads: tuple[Tensor | None, ...],
    inputs: list[Tensor | None],
    borders: list[Tensor | None],
    chunks: Chunks,
    need_x: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, h0, c0 and the weights, the last chunk first."""
    x, _, _, *flat = inputs
    assert x is not None
    weights = Weights(*flat)  # pyright: ignore[reportArgumentType]  R is there
    dy, dh, dc = grads
    dx = torch.empty_like(x) if need_x else None
    sums: list[Tensor | None] = [None] * len(flat)
    for place in reversed(range(len(borders) // 2)):
        part = slice(place * chunks.size, (place + 1) * chunks.size)
        lengths, variant = chunks.of(part.start, len(x[part]))
        h, c = borders[2 * place : 2 * place + 2]
        own: dict[str, Any] = {"reverse": False, "variant": variant, "bfloat16": chunks.bfloat16}
        y, _, _, kept = native.forward(x[part], weights, h, c, lengths, keep=True, **own)
        assert kept is not None
        outer = (None if dy is None else dy[part], dh, dc)
        found = native.backward(outer, x[part], weights, h, c, lengths, y, kept, need_x=need_x, **own)
        dh, dc = found.h0, found.c0
        if dx is not None and found.x is not None:
            dx[part] = found.x
        sums = [
            new if old is None or new is None else old.add_(new) for old, new in zip(sums, found.weights, strict=True)
        ]
    return dx, dh, dc, *sums
