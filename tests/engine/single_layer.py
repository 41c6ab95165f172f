"""One layer, one direction, as the kernels take it: made, run natively, and computed by the reference in float64.

Tolerances: a float32 sum of n terms is wrong by about sqrt(n) * 6e-8 relative to the terms' size, and the LSTM's own
dynamics carry errors on. With weights drawn as torch.nn.LSTM draws them (uniform within 1 / sqrt(hidden)) they do not
grow, so 2e-6 of the largest element leaves a factor of about ten for the sizes below. A wrong formula is wrong by 1e-3.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from holdfast.engine import native
from holdfast.engine.cells import PLAIN, State, Variant, Weights
from holdfast.engine.reference import lstm as reference_lstm

needs_native = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
ISAS = native.isas() if native.available() else []
TOLERANCE = 2e-6


@dataclass(frozen=True)
class Case:
    """Everything that goes into one layer, and the gradients that come back into its outputs."""

    x: Tensor  # [time, batch, features]
    w: Tensor | None
    r: Tensor
    b: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    lengths: Tensor | None
    reverse: bool
    dy: Tensor | None  # [time, batch, hidden]
    dh: Tensor | None
    dc: Tensor | None
    projection: Tensor | None = None
    peephole: Tensor | None = None
    norms: tuple[Tensor, ...] = ()
    variant: Variant = PLAIN

    def weights(self) -> Weights:
        return Weights(self.w, self.r, self.b, self.projection, self.peephole, *self.norms)

    def inputs(self) -> list[Tensor]:
        return [t for t in (self.x, *self.weights()[:3], self.h0, self.c0, *self.weights()[3:]) if t is not None]

    def packed(self) -> "Case":
        """The same case with x and dy in the layout of a PackedSequence."""
        x, dy = (None if t is None else packed(t, self.lengths) for t in (self.x, self.dy))
        assert x is not None
        return replace(self, x=x, dy=dy)

    def rows(self, chosen: list[int]) -> "Case":
        """The same layer for some rows of the batch only."""

        def of(t: Tensor | None, axis: int) -> Tensor | None:
            return None if t is None else t.index_select(axis, torch.tensor(chosen))

        x = self.x.index_select(1, torch.tensor(chosen))
        h0, dh, mask = (of(t, 0) for t in (self.h0, self.dh, self.variant.h_mask))
        c0, dc = (of(t, -2) for t in (self.c0, self.dc))  # the exponential cell has an axis in front
        variant = self.variant._replace(h_mask=mask)
        return replace(
            self, x=x, h0=h0, c0=c0, lengths=of(self.lengths, 0), dy=of(self.dy, 1), dh=dh, dc=dc, variant=variant
        )


def make(
    time: int = 5,
    batch: int = 3,
    features: int = 4,
    hidden: int = 7,
    ragged: bool = False,
    reverse: bool = False,
    seed: int = 0,
) -> Case:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    def weight(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=rng) * 2 - 1) / hidden**0.5

    lengths = torch.randint(0, time + 1, (batch,), generator=rng) if ragged else None
    if lengths is not None and batch > 1:
        lengths[0], lengths[1] = 0, time
    return Case(
        normal(time, batch, features),
        weight(4 * hidden, features),
        weight(4 * hidden, hidden),
        weight(4 * hidden),
        normal(batch, hidden),
        normal(batch, hidden),
        lengths,
        reverse,
        normal(time, batch, hidden),
        normal(batch, hidden),
        normal(batch, hidden),
    )


def packed(t: Tensor, lengths: Tensor | None) -> Tensor:
    """[time, batch, ...] as torch packs it: step by step the rows that still run, longest first."""
    assert lengths is not None
    order = lengths.argsort(descending=True, stable=True)
    return t[:, order][torch.arange(t.shape[0]).unsqueeze(1) < lengths[order]]


NAMES = (
    "y",
    "h_last",
    "c_last",
    "dx",
    "dh0",
    "dc0",
    "dw_input",
    "dw_recurrent",
    "dbias",
    "dprojection",
    "dpeephole",
    "dgain_x",
    "dgain_h",
    "dgain_c",
    "dbias_c",
)


def run(case: Case, threads: int = 1) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    c = case
    y, h, cell, kept = native.forward(
        c.x, c.weights(), c.h0, c.c0, c.lengths, reverse=c.reverse, keep=True, variant=c.variant
    )
    assert kept is not None
    found = native.backward(
        (c.dy, c.dh, c.dc),
        c.x,
        c.weights(),
        c.h0,
        c.c0,
        c.lengths,
        y,
        kept,
        reverse=c.reverse,
        need_x=True,
        variant=c.variant,
    )
    all_of_them = (y, h, cell, found.x, found.h0, found.c0, *found.weights)
    return {name: value for name, value in zip(NAMES, all_of_them, strict=True) if value is not None}


def truth(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The reference, gradients by autograd. A missing bias or state is a zero one."""
    hidden, width = case.r.shape[0] // 4, case.r.shape[1]
    batch = case.x.shape[1]

    def leaf(t: Tensor | None, *shape: int) -> Tensor:
        return (torch.zeros(shape) if t is None else t).to(dtype, copy=True).requires_grad_()

    memory = (3, batch, hidden) if case.variant.exponential else (batch, hidden)
    bias = leaf(case.b, 4 * hidden)
    w, *more = [None if t is None else leaf(t) for t in (case.w, case.projection, case.peephole, *case.weights()[5:])]
    leaves = [
        leaf(case.x),
        leaf(case.h0, batch, width),
        leaf(case.c0, *memory),
        w,
        leaf(case.r),
        bias,
        *more,
    ]
    x, h0, c0, *weights = leaves
    mask = case.variant.h_mask
    variant = case.variant._replace(h_mask=None if mask is None else mask.to(dtype))
    y, last = reference_lstm(
        x, Weights(*weights), State(h0, c0), lengths=case.lengths, reverse=case.reverse, variant=variant
    )
    given = [(out, g) for out, g in zip((y, *last), (case.dy, case.dh, case.dc), strict=True) if g is not None]
    outs = [(out, g.to(dtype)) for out, g in given if out.requires_grad]
    asked = [leaf for leaf in leaves if leaf is not None]
    grads = torch.autograd.grad([o for o, _ in outs], asked, [g for _, g in outs], allow_unused=True)
    found = {id(leaf): torch.zeros_like(leaf) if g is None else g for leaf, g in zip(asked, grads, strict=True)}
    values = [y.detach(), last.h.detach(), last.c.detach(), *(found.get(id(leaf)) for leaf in leaves)]
    return {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}


def agree(case: Case, got: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    for name, expected in truth(case).items():
        error = distance(got[name], expected)
        assert error <= tolerance, f"{name}: off by {error:.2e} of the largest element"


def agree_as_well_as_torch(case: Case, got: dict[str, Tensor]) -> None:
    """For cells that let rounding grow from step to step: ten times what the float32 reference is off, at most."""
    exact, usual = truth(case), usual_rounding(case)
    for name, expected in exact.items():
        error = distance(got[name], expected)
        assert error <= TOLERANCE + 10 * usual, f"{name}: off by {error:.2e} of the largest element, torch {usual:.2e}"


def usual_rounding(case: Case) -> float:
    """How far the float32 reference is from the float64 one, where it is farthest."""
    rounded = truth(case, torch.float32)
    return max(distance(rounded[name], expected) for name, expected in truth(case).items())


def distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest element or 1."""
    assert got.shape == expected.shape
    if not expected.numel():
        return 0.0
    return (got.double() - expected).abs().max().item() / max(1.0, expected.abs().max().item())


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor], names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        if name not in one and name not in other:
            continue
        assert torch.equal(one[name], other[name]), f"{name}: {(one[name] - other[name]).abs().max()}"
