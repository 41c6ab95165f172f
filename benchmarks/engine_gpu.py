"""Forward and backward pass of one layer on a GPU, in float32: Triton's kernels against the same cell as a loop over
time (holdfast.engine.reference), and beside them cuDNN's plain cell.

    python benchmarks/engine_gpu.py [--quick]

Without a GPU that torch can use it says so and ends: nothing of it has a meaning on a CPU.
"""

import json
from dataclasses import asdict, replace
from unittest.mock import patch

import torch

from holdfast.engine import Cell, LSTMLayer, backend, backend_report
from measure import RESULTS, SHAPES, Row, Shape, compare, machine, mean, options, row

CELLS = {
    "plain, ragged": Cell(),
    "peephole": Cell(peephole=True),
    "coupled": Cell(coupled=True),
    "zoneout": Cell(zoneout_h=0.1, zoneout_c=0.3),
    "dropout of h": Cell(dropout_h=0.3),
    "exponential": Cell(exponential=True),
    "peephole, projection": Cell(peephole=True, projection=32),
}
LOOP = backend.Choice("reference", "the benchmark's rival")


def step(layer: LSTMLayer, x: torch.Tensor, dy: torch.Tensor, lengths: torch.Tensor | None) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
    layer(x, lengths=lengths)[0].backward(dy)
    torch.cuda.synchronize()


def loop(layer: LSTMLayer, x: torch.Tensor, dy: torch.Tensor, lengths: torch.Tensor | None) -> None:
    with patch("holdfast.engine.functional.choose", lambda *_: LOOP):
        step(layer, x, dy, lengths)


def measured(name: str, shape: Shape, seconds: float) -> tuple[Row, float]:
    """Ours against the loop, and cuDNN's plain cell's milliseconds on whole rows."""
    rng = torch.Generator().manual_seed(0)
    layer, plain = LSTMLayer(shape.features, shape.hidden, CELLS[name]).cuda(), LSTMLayer(shape.features, shape.hidden)
    plain.cuda()
    x = torch.randn(shape.time, shape.batch, shape.features, generator=rng).cuda().requires_grad_()
    dy = torch.randn(shape.time, shape.batch, layer.width, generator=rng).cuda()
    full = torch.randn(shape.time, shape.batch, shape.hidden, generator=rng).cuda()
    lengths = torch.randint(1, shape.time + 1, (shape.batch,), generator=rng) if name.endswith("ragged") else None
    backend_report(reset=True)
    step(layer, x, dy, lengths)
    ran = {choice.backend for choice in backend_report().calls}
    if ran != {"triton"}:
        raise SystemExit(f"{name} did not run Triton's kernels: {backend_report()}")
    found = row(
        f"{name}, {shape}",
        1,
        0.0,  # the variants' products differ
        lambda: step(layer, x, dy, lengths),
        lambda: loop(layer, x, dy, lengths),
        seconds,
    )
    return found, compare(lambda: step(plain, x, full, None), lambda: None, seconds / 4)[0].median_ms


def main() -> None:
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        print("engine_gpu: torch sees no GPU here, so there is nothing to measure")
        return
    given = replace(given, seconds=given.seconds / 2)
    rows: list[Row] = []
    plain: list[float] = []
    for name in CELLS:
        for shape in SHAPES[:3]:
            found, cudnn = measured(name, shape, given.seconds)
            print(
                f"{found.case:44} {found.ours.median_ms:8.3f} ms, the loop {found.rival.median_ms:8.3f} "
                f"({found.ratio:.2f}x), cuDNN's plain cell {cudnn:8.3f}"
            )
            rows.append(found)
            plain.append(cudnn)
    print(f"geometric mean {mean(rows):.2f} times the loop, on {torch.cuda.get_device_name()}")
    if given.write:
        whole = {
            "benchmark": "engine_gpu",
            "rival": "the same cell as a PyTorch loop",
            "machine": machine() | {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()},
            "rows": [asdict(r) | {"cudnn_plain_ms": ms} for r, ms in zip(rows, plain, strict=True)],
        }
        (RESULTS / "engine_gpu.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
