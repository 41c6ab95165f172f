"""torch.set_float32_matmul_precision("medium"): factors of products in bf16, everything else as ever."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from holdfast.engine import LSTMLayer, native, reference
from holdfast.engine.cells import State, Weights

from .single_layer import Case, make, needs_native, run, same_bits, truth
from .test_variants import CELLS, variant_of

# What multiplies bf16 on this machine. The kernels for AMX are proved by emulation, which needs AVX512-BF16 only.
HALVES = [isa for isa in ("avx512bf16", "amx_emulated", "amx") if native.available() and native.has_isa(isa)]
pytestmark = [needs_native, pytest.mark.skipif(not HALVES, reason="this CPU has no AVX512-BF16")]
PLAIN_WORDS = [name for name in CELLS if not {"projection", "normalised", "ready"} & set(name.split())]


@pytest.fixture(autouse=True, params=HALVES)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    torch.set_float32_matmul_precision("medium")
    yield request.param
    torch.set_float32_matmul_precision("highest")


def case_of(name: str, *size: int, **more: bool) -> Case:
    case = make(*size, **more)
    return case if name == "plain" else variant_of(case, name)


def half(t: Tensor) -> Tensor:
    return t.bfloat16().to(t.dtype)


@pytest.mark.parametrize("size", [(2, 3, 4, 7), (7, 5, 9, 33), (6, 1, 3, 64), (4, 13, 16, 48)])
def test_factors_are_rounded_and_nothing_else(size: tuple[int, ...]) -> None:
    """Against float64 with x, h, W and R rounded to bf16 before each product.

    What differs is float32 beside float64, and where an h lies at the border between two bf16 numbers, one bf16 step of
    that h (2^-9 of it) times a weight: 5e-4 holds for these sizes, and rounding c or the gates too would break it.
    """
    case = make(*size)
    found = run(case)
    x, w, r, h0, c0 = (t.double() for t in (half(case.x), half(case.w), half(case.r), case.h0, case.c0))
    assert case.b is not None
    state, outputs = State(h0, c0), []
    for t in range(size[0]):
        seen = State(half(state.h), state.c)
        _, state = reference.lstm(x[t : t + 1], Weights(w, r, case.b.double()), seen)
        outputs.append(state.h)
    torch.testing.assert_close(found["y"].double(), torch.stack(outputs), rtol=0, atol=5e-4)
    torch.testing.assert_close(found["c_last"].double(), state.c, rtol=0, atol=1e-3)
    highest = truth(case)["y"]
    assert (found["y"].double() - highest).abs().max() > 1e-5  # it was done in bf16 indeed


@pytest.mark.parametrize("name", ["plain", *PLAIN_WORDS])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_near(name: str, reverse: bool) -> None:
    """A bf16 has 8 bits: a product is wrong by about 2^-8 over the root of its terms, and more as time goes on."""
    for size in ((9, 8, 17, 33), (12, 3, 6, 64), (1, 5, 3, 20), (4, 35, 1, 7)):
        case = case_of(name, *size, ragged=True, reverse=reverse)
        found = run(case)
        for key, expected in truth(case).items():
            error = (found[key].double() - expected).norm() / expected.norm().clamp(min=1e-3)
            assert error < 0.03, (key, size, error)


@pytest.mark.parametrize("name", ["plain", "peephole zoneout", "exponential"])
def test_several_chunks_and_threads_give_the_same_bits(name: str) -> None:
    for size in ((71, 11, 5, 37), (41, 2, 24, 160), (33, 1, 8, 128)):
        case = case_of(name, *size, ragged=True)
        one = run(case, threads=1)
        for threads in (2, 3):
            same_bits(one, run(case, threads=threads))


def test_a_row_alone_has_the_same_bits() -> None:
    case = make(7, 19, 10, 33, ragged=True)
    together = run(case)
    for row in (0, 1, 7, 15, 16, 18):
        alone = run(case.rows([row]))
        for name in ("h_last", "c_last", "dh0", "dc0"):
            assert torch.equal(together[name][row], alone[name][0]), name
        assert torch.equal(together["y"][:, row], alone["y"][:, 0])


def test_nan_and_inf_stay_in_their_rows() -> None:
    case = make(6, 4, 5, 19)
    clean = run(case)
    case.x[3, 1], case.x[2, 2] = float("nan"), float("inf")
    dirty = run(case)
    assert torch.equal(clean["y"][:, [0, 3]], dirty["y"][:, [0, 3]])
    assert torch.equal(clean["dx"][:, [0, 3]], dirty["dx"][:, [0, 3]])
    assert dirty["y"][3, 1].isnan().all()


def test_infinite_input_only_saturates() -> None:
    """Also beside units that pad the last block and the last step of words: theirs would be NaN, Inf times zero."""
    case = make(3, 2, 1, 7)
    case.x[1, 0, 0] = float("inf")
    found, expected = run(case), truth(case)
    for name in ("y", "h_last", "c_last", "dx", "dh0", "dc0"):
        assert (found[name].double() - expected[name]).abs().max() < 0.02, name


def test_packed_rows_have_the_same_bits() -> None:
    case = make(8, 6, 17, 33, ragged=True)
    same_bits(run(case.packed()), run(case), ("h_last", "c_last", "dh0", "dc0", "dw_input", "dw_recurrent", "dbias"))


@pytest.mark.parametrize("size", [(9, 33, 17, 33), (12, 1, 33, 64), (71, 11, 1, 37)])
def test_units_that_multiply_bf16_agree(size: tuple[int, ...], isa: str) -> None:
    """The factors are the same, sums differ in their order: by 1e-7, unless an h or a gate's gradient at the border
    between two bf16 comes out as the other one, 2^-8 of one factor among many. A lost product is wrong by 1e-2."""
    case = make(*size, ragged=True)
    found = run(case)
    native.use_isa("avx512bf16")
    for name, expected in run(case).items():
        assert (found[name] - expected).norm() <= 1e-3 * expected.norm(), name


def test_what_stays_in_float32() -> None:
    """A single step, projections and normalised cells; and all of it on an instruction set without bf16."""
    cases = [make(1, 2, 4, 7), variant_of(make(), "projection"), variant_of(make(), "normalised")]
    in_medium = [run(case) for case in cases]
    torch.set_float32_matmul_precision("highest")
    for case, found in zip(cases, in_medium, strict=True):
        same_bits(found, run(case))
    native.use_isa("avx512")
    highest = run(make())
    torch.set_float32_matmul_precision("medium")
    same_bits(highest, run(make()))


def test_training_learns_as_well() -> None:
    """The sign of a sum over 20 steps, learnt by the same network in both precisions."""
    losses: list[float] = []
    for precision in ("medium", "highest"):
        torch.set_float32_matmul_precision(precision)
        torch.manual_seed(0)
        layer, head = LSTMLayer(3, 32), torch.nn.Linear(32, 1)
        adam = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
        loss = torch.tensor(0.0)
        for _ in range(60):
            x = torch.randn(20, 64, 3)
            wanted = (x[:, :, 0].sum(0) > 0).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(head(layer(x)[1].h)[..., 0], wanted)
            adam.zero_grad()
            loss.backward()
            adam.step()
        losses.append(loss.item())
    assert max(losses) < 0.35 and abs(losses[0] - losses[1]) < 0.1


def test_a_missing_state_is_zero() -> None:
    case = replace(make(6, 3, 5, 19), h0=None, c0=None)
    torch.testing.assert_close(run(case)["y"].double(), truth(case)["y"], rtol=0, atol=0.02)
