"""Forward and backward pass of one layer of every variant, in float32, against two: the same variant as a PyTorch loop
over time, and our own plain cell.

    python benchmarks/engine_variants.py [--threads 1 2] [--quick]

The loop is holdfast.engine.reference: W x for all steps in one product, then about a dozen tensor operations per step
under autograd, as such cells are written by hand. Both sides run through the same LSTMLayer, drawing its masks anew.
"""

from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

import torch

from holdfast.engine import Cell, LSTMLayer, backend
from measure import SHAPES, Row, Shape, Timing, compare, mean, options, report, row

CELLS = {
    "plain": Cell(),
    "peephole": Cell(peephole=True),
    "coupled": Cell(coupled=True),
    "normalised": Cell(normalised=True),
    "zoneout": Cell(zoneout_h=0.1, zoneout_c=0.3),
    "dropout of h": Cell(dropout_h=0.3),
    "weight drop": Cell(weight_drop=0.3),
    "exponential": Cell(exponential=True),
}
NAMES = (*CELLS, "projection", "resets")  # h half as wide as c; a memory cleared before one step in fifty
LOOP = backend.Choice("reference", "the benchmark's rival")


@dataclass(frozen=True)
class VariantRow(Row):
    """One line of the table, with the plain cell beside."""

    variant: str
    plain: Timing
    of_plain: float  # ours / the plain cell's: 1 costs nothing


def step(layer: LSTMLayer, x: torch.Tensor, dy: torch.Tensor, resets: torch.Tensor | None) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
    layer(x, resets=resets)[0].backward(dy)


def loop(layer: LSTMLayer, x: torch.Tensor, dy: torch.Tensor) -> None:
    with patch("holdfast.engine.functional.choose", lambda *_: LOOP):
        step(layer, x, dy, None)


def measured(name: str, shape: Shape, threads: int, seconds: float) -> VariantRow:
    rng = torch.Generator().manual_seed(0)
    cell = Cell(projection=shape.hidden // 2) if name == "projection" else CELLS.get(name, Cell())
    layer = LSTMLayer(shape.features, shape.hidden, cell)
    plain = LSTMLayer(shape.features, shape.hidden)
    x = torch.randn(shape.time, shape.batch, shape.features, generator=rng).requires_grad_()
    dy = torch.randn(shape.time, shape.batch, layer.width, generator=rng)
    full = torch.randn(shape.time, shape.batch, shape.hidden, generator=rng)
    resets = torch.rand(shape.time, shape.batch, generator=rng) < 0.02 if name == "resets" else None
    flops = 3 * shape.flops() if layer.cell == Cell() else 0.0  # of the others the products differ
    found = row(
        f"{name}, {shape}",
        threads,
        flops,
        lambda: step(layer, x, dy, resets),
        lambda: loop(layer, x, dy),
        seconds,
    )
    ours, beside = compare(lambda: step(layer, x, dy, resets), lambda: step(plain, x, full, None), seconds)
    return VariantRow(
        **{**asdict(found), "ours": found.ours, "rival": found.rival},
        variant=name,
        plain=beside,
        of_plain=ours.median_ms / beside.median_ms,
    )


def main() -> None:
    given = options(__doc__ or "")
    given = replace(given, seconds=given.seconds / 2)
    rows: list[VariantRow] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for name in NAMES:
            for shape in SHAPES[:3]:
                rows.append(measured(name, shape, threads, given.seconds))
    report("engine_variants", "the same cell as a PyTorch loop", given, list(rows))
    for name in NAMES:
        own = [r for r in rows if r.variant == name]
        costs = ", ".join(f"{r.of_plain:.2f}" for r in own)
        print(f"{name:14} {mean(own):5.1f}x the loop; of the plain cell's time: {costs}")


if __name__ == "__main__":
    main()
