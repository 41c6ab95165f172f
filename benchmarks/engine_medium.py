"""torch.set_float32_matmul_precision("medium") and "high", one layer, against torch.nn.LSTM in bfloat16 and in float32.

    python benchmarks/engine_medium.py [--threads 1 2] [--quick]

"high" is timed where it is not float32, on AMX; its errors are measured by the emulation elsewhere. AMX has records of
its own, results/engine_medium_amx.json and engine_high_amx.json.

Ours takes and gives float32 and rounds only what meets in products. torch's bfloat16 module rounds its parameters, its
input, its output and its gradients too, which is less work and less exact: the table of errors says how much. torch in
float32 is what "highest" would run. "bfloat16 module" and "autocast" have the same on both sides: a module and an input
in bfloat16, or in float32 under autocast, with torch's precision switch at "highest". Training is forward and backward
pass, the input wanting a gradient too.
"""

import json
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import holdfast
from holdfast.engine import State, Weights, native, reference
from measure import RESULTS, SHAPES, Options, Row, Shape, options, report, row

PRODUCTS = {"medium": 1, "high": 3}  # of bf16, for one of float32
RIVALS = {"medium": (torch.bfloat16, torch.float32), "high": (torch.float32,)}


def step(layer: nn.LSTM, x: Tensor, dy: Tensor) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
    layer(x)[0].backward(dy)


def infer(layer: nn.LSTM, x: Tensor) -> None:
    with torch.inference_mode():
        layer(x)


def under_autocast(work: Callable[[], None]) -> Callable[[], None]:
    def measured() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            work()

    return measured


def in_precision(name: str, work: Callable[[], None]) -> Callable[[], None]:
    def measured() -> None:
        torch.set_float32_matmul_precision(name)
        work()
        torch.set_float32_matmul_precision("highest")

    return measured


def rows_of(precision: str, shape: Shape, threads: int, seconds: float) -> list[Row]:
    sizes = shape.features, shape.hidden
    ours = holdfast.LSTM(*sizes)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape.time, shape.batch, shape.features, generator=rng).requires_grad_()
    dy = torch.randn(shape.time, shape.batch, shape.hidden, generator=rng)
    rows: list[Row] = []
    for dtype in RIVALS[precision]:
        theirs = nn.LSTM(*sizes).to(dtype)
        own_x, own_dy = x.detach().to(dtype).requires_grad_(), dy.to(dtype)
        name = f"{shape}, torch {str(dtype).removeprefix('torch.')}"
        training = in_precision(precision, partial(step, ours, x, dy))
        inference = in_precision(precision, partial(infer, ours, x))
        rows += [
            row(
                f"training {name}", threads, 3 * shape.flops(), training, partial(step, theirs, own_x, own_dy), seconds
            ),
            row(f"inference {name}", threads, shape.flops(), inference, partial(infer, theirs, own_x), seconds),
        ]
    return rows


def half_rows_of(shape: Shape, threads: int, seconds: float) -> list[Row]:
    """A module in bfloat16 on both sides, and float32 ones under autocast."""
    sizes = shape.features, shape.hidden
    x = torch.randn(shape.time, shape.batch, shape.features, requires_grad=True)
    dy = torch.randn(shape.time, shape.batch, shape.hidden)
    rows: list[Row] = []
    for name, mine, own_x, own_dy in (
        ("bfloat16 module", holdfast.LSTM(*sizes).bfloat16(), x.detach().bfloat16().requires_grad_(), dy.bfloat16()),
        ("autocast", holdfast.LSTM(*sizes), x, dy.bfloat16()),
    ):
        theirs = nn.LSTM(*sizes).to(mine.weight_hh_l0.dtype)
        for kind, work, passes in (("training", partial(step, dy=own_dy), 3), ("inference", infer, 1)):
            one, other = (partial(work, layer, own_x) for layer in (mine, theirs))
            if name == "autocast":
                one, other = under_autocast(one), under_autocast(other)
            rows.append(row(f"{kind} {shape}, {name}", threads, passes * shape.flops(), one, other, seconds))
    return rows


def isa_for(precision: str) -> str:
    """The instruction set whose errors count: of "high", which is float32 elsewhere, the emulation stands for AMX."""
    chosen = native.isa()
    return "amx_emulated" if precision == "high" and chosen != "amx" and native.has_isa("amx_emulated") else chosen


def errors(hidden: int, steps: int, scale: float) -> dict[str, float]:
    """Largest differences from float64: of h over all steps, and of R's gradient relative to its largest element."""
    torch.manual_seed(0)
    exact = nn.LSTM(32, hidden).double()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.mul_(scale)
    x, dy = torch.randn(steps, 8, 32, dtype=torch.float64), torch.randn(steps, 8, hidden, dtype=torch.float64)
    w, r, *b = (p.detach().clone().requires_grad_() for p in exact.parameters())
    wanted, _ = reference.lstm(x, Weights(w, r, b[0] + b[1]), State(*(torch.zeros(8, hidden).double() for _ in "hc")))
    (gradient,) = torch.autograd.grad(wanted, r, dy)
    found: dict[str, float] = {}
    for name, layer, precision in (
        ("holdfast highest", holdfast.LSTM(32, hidden), "highest"),
        ("holdfast high", holdfast.LSTM(32, hidden), "high"),
        ("holdfast medium", holdfast.LSTM(32, hidden), "medium"),
        ("holdfast bfloat16", holdfast.LSTM(32, hidden).bfloat16(), "highest"),
        ("torch bfloat16", nn.LSTM(32, hidden).bfloat16(), "highest"),
    ):
        layer.load_state_dict({key: value.to(layer.weight_hh_l0.dtype) for key, value in exact.state_dict().items()})
        torch.set_float32_matmul_precision(precision)
        chosen = native.isa()
        native.use_isa(isa_for(precision))
        y = layer(x.to(layer.weight_hh_l0.dtype))[0]
        y.backward(dy.to(y.dtype))
        native.use_isa(chosen)
        torch.set_float32_matmul_precision("highest")
        own = layer.weight_hh_l0.grad
        assert own is not None
        found[f"{name}: h"] = (y - wanted).abs().max().item()
        found[f"{name}: dR"] = ((own - gradient).abs().max() / gradient.abs().max()).item()
    return found


def accuracy() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for hidden, steps, scale in ((128, 1000, 1.0), (128, 1000, 3.0), (512, 200, 1.0), (512, 200, 3.0)):
        found[f"H{hidden}, {steps} steps, weights x{scale:g}"] = errors(hidden, steps, scale)
    return found


def record_of(precision: str) -> str:
    """The name of the record: AMX has its own."""
    return f"engine_{precision}{'_amx' if native.isa() == 'amx' else ''}"


def add_to_record(name: str, more: dict[str, object]) -> None:
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}, indent=1) + "\n")


def measure(precision: str, given: Options) -> None:
    """Time one precision, and say how much of the roof of bf16 products it reaches."""
    rows: list[Row] = []
    roofs: dict[str, float] = {}
    for threads in given.threads:
        torch.set_num_threads(threads)
        roofs[str(threads)] = native.peak_flops(threads, halves=True) / 1e9
        for shape in SHAPES:
            rows += rows_of(precision, shape, threads, given.seconds / 2)
            if precision == "medium":
                rows += half_rows_of(shape, threads, given.seconds / 2)
    report(record_of(precision), "torch.nn.LSTM in the precision named", given, rows)
    for r in rows:
        peak = roofs[str(r.threads)]
        share = PRODUCTS[precision] * r.gflops / peak
        print(f"{r.case:45} {r.threads} threads: {share:5.1%} of {peak:.0f} GFLOP/s, bf16 in registers")
    if given.write:
        add_to_record(record_of(precision), {"roof_bf16_gflops": roofs})


def main() -> None:
    given = options(__doc__ or "")
    found = accuracy()
    measure("medium", given)
    if native.isa() == "amx":
        measure("high", given)
    for case, each in found.items():
        print(case, ", ".join(f"{name} {error:.1e}" for name, error in each.items()))
    if given.write:
        add_to_record(record_of("medium"), {"errors": found})


if __name__ == "__main__":
    main()
