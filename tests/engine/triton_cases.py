"""What test_triton.py runs in processes of its own: the Triton kernels on a CPU.

    python -m tests.engine.triton_cases interpret FILE    by Triton's interpreter: what came out of every case
    python -m tests.engine.triton_cases compile FILE      by its compiler, for a GPU that need not be there

Whether kernels are interpreted is decided when triton is first imported, for a whole process; other tests must see
neither.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from holdfast.engine.cells import State, Weights, Zoneout

from .single_layer import NAMES, Case, make
from .test_variants import CELLS, variant_of

SHAPE = (5, 3, 4, 7)
WIDE = (2, 2, 5, 300)  # more units than a program has
SEEDS = (0, 1, 2**31, (7 << 40) + 3, 2**64 - 1)
MASKS = (4, 37)  # batch, hidden
SPECIAL = ("everything", "exponential", "projection zoneout")
KINDS = ("plain", *(name for name in CELLS if "normalised" not in name))


def cases() -> dict[str, Case]:
    """Every cell, whole and ragged (the first row without a step), in both directions, and what is odd about memory."""
    found: dict[str, Case] = {}
    for name in KINDS:
        found[f"{name}, ragged, reverse"] = variant_of(make(*SHAPE, ragged=True, reverse=True), name)
    for name in SPECIAL:
        for ragged, reverse in ((False, False), (False, True), (True, False)):
            found[f"{name}, {ragged=}, {reverse=}"] = variant_of(make(*SHAPE, ragged, reverse), name)
    for name in SPECIAL:
        found[f"{name}, wide"] = variant_of(make(*WIDE, ragged=True), name)
    found["no state, no bias"] = replace(make(*SHAPE), h0=None, c0=None, b=None)
    found["only y"] = replace(make(*SHAPE, ragged=True), dh=None, dc=None)
    found["only the state"] = replace(variant_of(make(*SHAPE), "exponential"), dy=None)
    found["one step"] = variant_of(make(1, 1, 1, 1), "everything")
    return found


def strided(case: Case) -> Case:
    """The same numbers, laid out otherwise."""

    def apart(t: Tensor | None) -> Tensor | None:
        return None if t is None else torch.stack([t, t.neg()], dim=-1)[..., 0]

    x, dy = (None if t is None else t.transpose(0, 1).contiguous().transpose(0, 1) for t in (case.x, case.dy))
    assert x is not None
    mask = apart(case.variant.h_mask)
    return replace(
        case,
        x=x,
        dy=dy,
        **{name: apart(getattr(case, name)) for name in ("w", "r", "b", "h0", "c0", "dh", "dc", "peephole")},
        lengths=apart(case.lengths),
        variant=case.variant._replace(h_mask=mask),
    )


def run(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Through the door that functional.run opens, gradients by autograd."""
    from holdfast.engine.cuda.function import lstm

    def leaf(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.detach().to(dtype).requires_grad_()

    x, h0, c0 = leaf(case.x), leaf(case.h0), leaf(case.c0)
    weights = Weights(*map(leaf, case.weights()))
    state = None if h0 is None or c0 is None else State(h0, c0)
    given: dict[str, Any] = {"lengths": case.lengths, "reverse": case.reverse, "variant": case.variant}
    assert x is not None
    y, after = lstm(x, weights, state, **given)
    pairs = zip((y, *after), (case.dy, case.dh, case.dc), strict=True)
    outs, grads = zip(*((out, g.to(dtype)) for out, g in pairs if g is not None), strict=True)
    leaves = [x, h0, c0, *weights]
    asked = [t for t in leaves if t is not None]
    made = dict(zip(map(id, asked), torch.autograd.grad(outs, asked, grads, allow_unused=True), strict=True))
    values = [y.detach(), *(t.detach() for t in after), *(None if t is None else made[id(t)] for t in leaves)]
    return {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}


def special() -> dict[str, dict[str, Tensor]]:
    """No gradient, packed rows, NaN in a row and past a row's end, sums far from zero, other dtypes and strides."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in SPECIAL:
        case = variant_of(make(*SHAPE, ragged=True), name)
        found[f"{name}, no gradient"], found[f"{name}, packed"] = (without_gradient(c) for c in (case, case.packed()))
        dirty = replace(case, x=case.x.clone())
        dirty.x[3, 1] = float("nan")
        found[f"{name}, NaN"] = run(dirty)
        found[f"{name}, clean"] = run(case)
        past = replace(case, x=case.x.clone())
        assert past.lengths is not None
        past.x[torch.arange(SHAPE[0]).unsqueeze(1) >= past.lengths] = float("nan")
        found[f"{name}, NaN past the end"] = run(past)
        for size in (1e4, 1e30):
            large = variant_of(make(*SHAPE), name)
            found[f"{name}, times {size:g}"] = run(replace(large, x=large.x * size))
    for name in ("everything", "exponential"):
        case = variant_of(make(*SHAPE, ragged=True), name)
        for dtype in (torch.bfloat16, torch.float16):
            found[f"{name}, {dtype}"] = run(case, dtype)
        found[f"{name}, strided"] = run(strided(case))
    for time, batch in ((0, 3), (5, 0)):
        found[f"nothing, {time} {batch}"] = run(variant_of(make(time, batch), "everything"))
    return found


def without_gradient(case: Case) -> dict[str, Tensor]:
    """Where states after every step are not kept but replaced."""
    from holdfast.engine.cuda.function import lstm

    assert case.h0 is not None and case.c0 is not None
    before = State(case.h0, case.c0)
    y, last = lstm(case.x, case.weights(), before, lengths=case.lengths, reverse=case.reverse, variant=case.variant)
    return dict(zip(NAMES, (y, *last), strict=False))


def second_order() -> dict[str, Tensor]:
    """The gradient of a gradient's square, and what autocast does."""
    from holdfast.engine.cuda.function import lstm

    case = variant_of(make(*SHAPE, ragged=True), "everything")
    x = case.x.clone().requires_grad_()
    assert case.h0 is not None and case.c0 is not None
    given: dict[str, Any] = {"lengths": case.lengths, "variant": case.variant}
    y, _ = lstm(x, case.weights(), State(case.h0, case.c0), **given)
    (dx,) = torch.autograd.grad(y, x, case.dy, create_graph=True)
    (twice,) = torch.autograd.grad(dx.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, after = lstm(case.x, case.weights(), State(case.h0, case.c0), **given)
    return {"twice": twice, "half": half, "half h": after.h, "half c": after.c}


def drawn() -> dict[int, Tensor]:
    """What the kernels draw for zoneout, by seed: [step, h or c, batch, hidden]."""
    from .triton_masks import masks

    return {seed: torch.stack([masks(Zoneout(0.3, 0.1, seed), step, MASKS) for step in range(3)]) for seed in SEEDS}


def interpret() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {
        "cases": {name: run(case) for name, case in cases().items()},
        "special": special(),
        "second order": second_order(),
        "masks": drawn(),
    }


class Driver:
    """Stands for Triton's driver, so that a kernel is bound and compiled as for this NVIDIA GPU, which is not here."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.capability, self.target = capability, GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


class Compiled:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.sizes: dict[str, int] = {}  # of the machine code, by its hash

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            made = self.kernel.warmup(*arguments, grid=grid, **constants)
            self.sizes[made.hash] = len(made.asm["cubin"])

        return launch


def compiled() -> dict[str, list[int]]:
    """The sizes of the machine codes that every kernel is compiled to, for all lengths and batches together."""
    from triton.runtime.driver import driver

    from holdfast.engine.cuda import layer

    names = ("sigmoid_forward", "sigmoid_backward", "exponential_forward", "exponential_backward")
    found: dict[str, list[int]] = {}
    for capability, dtype, cell in (
        (80, torch.float32, "everything"),
        (90, torch.bfloat16, "peephole projection"),
        (90, torch.float32, "exponential"),
    ):
        driver.set_active(Driver(capability))
        kernels = {name: Compiled(getattr(layer, name)) for name in names}
        with patch.multiple(layer, **kernels):
            for (time, batch), seed in zip(((5, 3), (1, 1), (18, 1), (2, 16), (3, 1000)), SEEDS, strict=True):
                case = variant_of(make(time, batch, ragged=True), cell)
                zoneout = case.variant.zoneout
                if zoneout.seed is not None:
                    case = replace(case, variant=case.variant._replace(zoneout=zoneout._replace(seed=seed)))
                run(case, dtype)
        for name, kernel in kernels.items():
            if kernel.sizes:
                found[f"{name}, {cell}"] = list(kernel.sizes.values())
    return found


if __name__ == "__main__":
    what, where = sys.argv[1:]
    assert (what == "interpret") == (os.environ.get("TRITON_INTERPRET") == "1")
    torch.save(interpret() if what == "interpret" else compiled(), Path(where))
