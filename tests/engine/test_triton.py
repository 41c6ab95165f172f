"""The Triton kernels without a GPU: their arithmetic by Triton's interpreter, their machine code by its compiler.

Tolerances: the kernels compute in float32 what the reference computes in float64, so they are off by some units of 6e-8
per step, and the cells carry errors on: 1e-5 of the largest element leaves a factor of ten. A wrong formula is wrong by
1e-3.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.engine import Weights, Zoneout, backend, reference
from holdfast.engine.backend import TANGENTS, choose
from holdfast.engine.cells import PLAIN, State, Variant, zoneout_masks

from .single_layer import Case, distance, make, packed, truth, usual_rounding
from .test_variants import variant_of
from .triton_cases import MASKS, SEEDS, SHAPE, SPECIAL, cases

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
TOLERANCE = 1e-5
HALVES = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half a unit in the last place of 1


def in_another_process(what: str, folder: Path) -> Any:
    """Run triton_cases.py: whether kernels are interpreted is decided once for a process."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1" if what == "interpret" else "0",
        "TRITON_CACHE_DIR": str(folder),
    }
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "tests.engine.triton_cases", what]
    done = subprocess.run(
        [*command, str(folder / "found")],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return in_another_process("interpret", tmp_path_factory.mktemp("interpreted"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return in_another_process("compile", tmp_path_factory.mktemp("compiled"))


def close(case: Case, got: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    """Everything that came out, against the reference in float64."""
    expected = truth(case)
    assert set(got) <= set(expected) and {"y", "h_last", "c_last", "dx", "dw_recurrent"} <= set(got)
    for name, value in got.items():
        error = distance(value, expected[name])
        assert error <= tolerance, f"{name}: off by {error:.2e} of the largest element"


@needs_triton
@pytest.mark.parametrize("name", cases())
def test_agrees_with_the_reference(found: dict[str, Any], name: str) -> None:
    close(cases()[name], found["cases"][name])


@needs_triton
@pytest.mark.parametrize("seed", SEEDS)
def test_zoneout_draws_what_the_reference_draws(found: dict[str, Any], seed: int) -> None:
    for step in range(3):
        drawn = zoneout_masks(Zoneout(0.3, 0.1, seed), step, torch.zeros(MASKS))
        assert torch.equal(found["masks"][seed][step], torch.stack(drawn))


@needs_triton
@pytest.mark.parametrize("name", SPECIAL)
def test_nan_stays_in_its_row(found: dict[str, Any], name: str) -> None:
    clean, dirty = found["special"][f"{name}, clean"], found["special"][f"{name}, NaN"]
    lengths = variant_of(make(*SHAPE, ragged=True), name).lengths
    assert lengths is not None and lengths[1] > 3
    others = [0, 2]
    for key in ("y", "dx"):
        assert torch.equal(clean[key][:, others], dirty[key][:, others]), key
    for key in ("h_last", "c_last", "dh0", "dc0"):
        assert torch.equal(clean[key][..., others, :], dirty[key][..., others, :]), key
    assert dirty["y"][3, 1].isnan().any() and dirty["h_last"][1].isnan().any()


@needs_triton
@pytest.mark.parametrize("name", SPECIAL)
def test_what_stands_past_a_rows_end_is_never_read(found: dict[str, Any], name: str) -> None:
    clean, dirty = found["special"][f"{name}, clean"], found["special"][f"{name}, NaN past the end"]
    assert all(torch.equal(clean[key], dirty[key]) for key in clean)


@needs_triton
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("size", ["10000", "1e+30"])
def test_saturated_gates_stay_finite(found: dict[str, Any], name: str, size: str) -> None:
    got = found["special"][f"{name}, times {size}"]
    assert all(got[key].isfinite().all() for key in ("y", "h_last", "dx", "dh0"))
    if size == "10000":  # 1e30 leaves no digit of float32's to compare
        case = variant_of(make(*SHAPE), name)
        case.x.mul_(1e4)
        close(case, got, TOLERANCE + 10 * usual_rounding(case))  # sums of that size are known to 5e-4 only


@needs_triton
@pytest.mark.parametrize("name", ["everything", "exponential"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_keeps_its_digits(found: dict[str, Any], name: str, dtype: torch.dtype) -> None:
    """Weights, x, sums and h are rounded, each by half a unit, over five steps: thirty of them at most."""
    got = found["special"][f"{name}, {dtype}"]
    assert {value.dtype for value in got.values()} == {dtype}
    close(variant_of(make(*SHAPE, ragged=True), name), got, 30 * HALVES[dtype])


@needs_triton
@pytest.mark.parametrize("name", ["everything", "exponential"])
def test_other_strides_change_nothing(found: dict[str, Any], name: str) -> None:
    close(variant_of(make(*SHAPE, ragged=True), name), found["special"][f"{name}, strided"])


@needs_triton
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("kind", ["no gradient", "packed"])
def test_states_that_are_not_kept_and_packed_rows(found: dict[str, Any], name: str, kind: str) -> None:
    expected, got = found["special"][f"{name}, clean"], found["special"][f"{name}, {kind}"]
    for key, value in got.items():  # torch's products depend, in the last bits, on where their factors lie
        whole = expected[key]
        if kind == "packed" and key == "y":
            whole = packed(whole, variant_of(make(*SHAPE, ragged=True), name).lengths)
        assert distance(value, whole.double()) <= TOLERANCE, key


@needs_triton
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0)])
def test_nothing_to_do(found: dict[str, Any], time: int, batch: int) -> None:
    got = found["special"][f"nothing, {time} {batch}"]
    assert all((got[key] == 0).all() for key in got if key.startswith("dw") or key == "dpeephole")
    case = variant_of(make(time, batch), "everything")
    if time == 0:
        assert torch.equal(got["h_last"], case.h0) and torch.equal(got["dc0"], case.dc)  # pyright: ignore


@needs_triton
def test_the_gradient_of_a_gradient_is_the_references(found: dict[str, Any]) -> None:
    case = variant_of(make(*SHAPE, ragged=True), "everything")
    x = case.x.double().requires_grad_()
    assert case.h0 is not None and case.c0 is not None and case.dy is not None and case.variant.h_mask is not None
    weights = Weights(*(None if t is None else t.double() for t in case.weights()))  # pyright: ignore
    variant = case.variant._replace(h_mask=case.variant.h_mask.double())
    before = State(case.h0.double(), case.c0.double())
    y, _ = reference.lstm(x, weights, before, lengths=case.lengths, variant=variant)
    (dx,) = torch.autograd.grad(y, x, case.dy.double(), create_graph=True)
    (twice,) = torch.autograd.grad(dx.square().sum(), x)
    assert distance(found["second order"]["twice"], twice) <= TOLERANCE


@needs_triton
def test_autocast_rounds_factors_only(found: dict[str, Any]) -> None:
    got = found["second order"]
    assert {got[key].dtype for key in ("half", "half h", "half c")} == {torch.bfloat16}
    exact = truth(variant_of(make(*SHAPE, ragged=True), "everything"))
    for key, name in (("half", "y"), ("half h", "h_last"), ("half c", "c_last")):
        assert distance(got[key], exact[name]) <= 30 * HALVES[torch.bfloat16]


@needs_triton
def test_a_compiler_takes_every_kernel(compiled: dict[str, list[int]]) -> None:
    """The interpreter takes more than the compiler does, and argument by argument."""
    assert len(compiled) == 6 and all(min(sizes) > 1000 for sizes in compiled.values())


@needs_triton
def test_nothing_is_compiled_anew_for_a_length_or_a_batch(compiled: dict[str, list[int]]) -> None:
    """Batches of 1, 3, 16 and 1000 rows, 1 to 18 steps, and a seed for each: Triton likes to know that a number is 1, a
    multiple of 16, or longer than 31 bits."""
    assert {name: len(sizes) for name, sizes in compiled.items()} == dict.fromkeys(compiled, 1)


WEIGHTS = Weights(torch.zeros(28, 4, device="meta"), torch.zeros(28, 7, device="meta"))
PEEPHOLE = torch.zeros(21, device="meta")
NORMS = [torch.zeros(28, device="meta")] * 2 + [torch.zeros(7, device="meta")] * 2


def chosen(
    weights: Weights = WEIGHTS,
    variant: Variant = PLAIN,
    lengths: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, str]:
    weights = Weights(*(None if t is None else t.to(dtype) for t in weights))  # pyright: ignore[reportArgumentType]
    return choose(torch.zeros(5, 3, 4, device="meta", dtype=dtype), weights, lengths, variant)[:2]


def test_what_goes_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers stand for those of a GPU, which is not here."""
    monkeypatch.setattr(backend, "_TRITON_DEVICES", ("meta",))
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    lengths, coupled = torch.tensor([2, 0, 5]), Variant(coupled=True)
    assert chosen()[0] == "torch"
    assert chosen(WEIGHTS._replace(projection=torch.zeros(7, 7, device="meta")))[0] == "torch"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert chosen(lengths=lengths, dtype=dtype) == chosen(variant=coupled, dtype=dtype)
        assert chosen(variant=coupled, dtype=dtype) == ("triton", "the input is on meta")
    assert chosen(WEIGHTS._replace(peephole=PEEPHOLE))[0] == "triton"
    assert chosen(WEIGHTS._replace(input=None))[0] == "triton"
    normalised = Weights(*WEIGHTS[:5], *NORMS)
    assert chosen(normalised) == (
        "reference",
        "the input is on meta, for whose normalised cell there is no Triton kernel",
    )
    assert chosen(variant=coupled, dtype=torch.float64)[0] == "reference"
    with torch.autograd.forward_ad.dual_level():
        assert chosen(variant=coupled) == TANGENTS[:2]
    assert torch.func.vmap(lambda _: torch.tensor(chosen(variant=coupled)[0] == "reference"))(torch.zeros(2)).all()
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    assert chosen(variant=coupled) == ("reference", "the input is on meta, where the package triton is not installed")


def test_elsewhere_the_reference_runs() -> None:
    assert chosen(variant=Variant(coupled=True)) == ("reference", "the input is on meta")


@needs_triton
@pytest.mark.parametrize(
    ("weights", "variant", "problem"),
    [
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7), peephole=torch.zeros(7)), PLAIN, "peephole"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 5)), PLAIN, "w_recurrent"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7), torch.zeros(1)), PLAIN, "bias"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(h_mask=torch.ones(2, 7)), "h_mask"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(zoneout=Zoneout(1.5, 0)), "zoneout"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(coupled=True, exponential=True), "exponential"),
        (
            Weights(torch.zeros(28, 4), torch.zeros(28, 5), projection=torch.zeros(5, 7)),
            Variant(zoneout=Zoneout(0.1, 0)),
            "zoneout",
        ),
    ],
)
def test_what_does_not_fit_is_refused(weights: Weights, variant: Variant, problem: str) -> None:
    """Before any kernel runs, so it may be asked for here."""
    from holdfast.engine.cuda.function import lstm

    with pytest.raises(ValueError, match=problem):
        lstm(torch.zeros(5, 3, 4), weights, None, lengths=None, variant=variant)
