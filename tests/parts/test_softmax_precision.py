"""The fused loss in medium and high precision: what is rounded, what is not, and the promises that hold in each."""

import ctypes
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine import native, softmax_native
from holdfast.engine.softmax_native import Losses, Wanted
from holdfast.parts.softmax import linear_cross_entropy

from .test_softmax import make, run, truth

# What multiplies bf16 on this machine. The kernels for AMX are proved by emulation, which needs AVX512-BF16 only.
HALVES = [isa for isa in ("avx512bf16", "amx_emulated", "amx") if native.available() and native.has_isa(isa)]
pytestmark = pytest.mark.skipif(not HALVES, reason="this CPU has no AVX512-BF16")
# tokens, width, vocabulary; the last two are more than a chunk of AVX512-BF16, and of AMX
SIZES = [*itertools.product((1, 5, 33), (1, 17, 40), (3, 97, 260)), (300, 70, 501), (1100, 20, 97)]
ALL = Wanted(True, True, True)


@pytest.fixture(autouse=True, params=HALVES)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = native.isa(), torch.get_num_threads()
    native.use_isa(request.param)
    torch.set_float32_matmul_precision("medium")
    yield request.param
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)
    native.use_isa(before)


@pytest.fixture(params=["medium", "high"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three products of bf16 on AVX512-BF16 too, where nobody gets them but by the ABI."""
    monkeypatch.setattr(native, "_TRIPLE_PAYS", HALVES)
    torch.set_float32_matmul_precision(request.param)
    return request.param


def half(t: Tensor) -> Tensor:
    return t.bfloat16().to(t.dtype)


def inputs_of(*size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, weight, bias and targets of which none is ignored."""
    (h, weight, bias), targets = make(*size)
    assert h is not None and weight is not None and bias is not None
    return h, weight, bias, targets.clamp(min=0)


def found(rows: slice, *inputs: Tensor, smoothing: float = 0.1) -> list[Tensor]:
    h, weight, bias, targets = inputs
    call: Losses = softmax_native.cross_entropy(h[rows], weight, bias, targets[rows], smoothing, 0.3, ALL)
    return [t for t in call if t is not None]


def rounded(smoothing: float, h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> list[Tensor]:
    """The same in float64, but for the factors of the three products."""
    x, w = half(h).double(), half(weight).double()
    logits = (x @ w.T + bias.double()).requires_grad_()
    losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    (dlogits,) = torch.autograd.grad(0.3 * losses.sum(), logits)
    factor = half(dlogits.float()).double()
    return [losses.detach(), factor @ w, factor.T @ x, dlogits.sum(0)]


def off(one: Tensor, other: Tensor) -> float:
    """The largest difference as a share of the largest element."""
    return ((one.double() - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_factors_are_rounded_and_nothing_else(smoothing: float) -> None:
    """Against float64 with h, weight and the gradients of logits rounded to bf16 before each product.

    What differs is float32 beside float64, 5e-6, and where the gradient of a logit lies at the border between two bf16
    numbers one bf16 step of it (2^-8) times a weight: 2e-4 of the largest, seen once. That no factor is rounded shows
    as 7e-3, in the losses as 2e-3.
    """
    for size in SIZES:
        given = inputs_of(*size)
        got, wanted = found(slice(None), *given, smoothing=smoothing), rounded(smoothing, *given)
        for n, (one, other) in enumerate(zip(got, wanted, strict=True)):
            assert off(one, other) < (5e-4 if n in (1, 2) else 5e-6), (size, n)


def test_ignored_targets_and_the_mean() -> None:
    for size in SIZES[1::4]:
        inputs, targets = make(*size)
        for one, other in zip(run(inputs, targets, 0.1), truth(inputs, targets, 0.1), strict=True):
            # Rounded to 8 bits, factors are wrong by 2^-9 at most, and sums of them by less of their largest.
            assert off(one, other) < 2e-2


def test_how_wrong_the_precisions_are(precision: str) -> None:
    """Logits of size 1: the loss, absolutely, and gradients as a share of their largest; the guide has the figures."""
    given = inputs_of(300, 70, 501)
    exact = rounded_nowhere(*given)
    got = found(slice(None), *given)
    most = {"medium": (1e-2, 1e-2), "high": (5e-5, 5e-5)}[precision]
    assert (got[0] - exact[0]).abs().max() < most[0]
    assert all(off(one, other) < most[1] for one, other in zip(got[1:], exact[1:], strict=True))


def rounded_nowhere(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> list[Tensor]:
    leaves = [t.double().requires_grad_() for t in (h, weight, bias)]
    losses = functional.cross_entropy(functional.linear(*leaves), targets, reduction="none", label_smoothing=0.1)
    return [losses.detach(), *torch.autograd.grad(0.3 * losses.sum(), leaves)]


def test_same_bits_on_any_number_of_threads_and_in_any_batch(precision: str) -> None:
    given = inputs_of(300, 50, 999)
    torch.set_num_threads(1)
    alone = found(slice(None), *given)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for one, other in zip(alone, found(slice(None), *given), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(alone[:2], found(slice(171, 190), *given)[:2], strict=True):
        assert torch.equal(one[171:190], other)


def test_without_gradients_the_same_losses(precision: str) -> None:
    h, weight, bias, targets = given = inputs_of(300, 50, 999)
    alone = softmax_native.cross_entropy(h, weight, bias, targets, 0.1, 0.3, Wanted(False, False, False)).losses
    assert torch.equal(alone, found(slice(None), *given)[0])
    for n in range(3):  # one gradient without the others
        wanted = Wanted(n == 0, n == 1, n == 2)
        call = softmax_native.cross_entropy(h, weight, bias, targets, 0.1, 0.3, wanted)
        gradient = call[1 + n]
        assert gradient is not None and torch.equal(gradient, found(slice(None), *given)[1 + n])


def test_a_nan_stays_in_its_token_and_none_comes_from_elsewhere(precision: str) -> None:
    for size in SIZES[1::3]:
        given = inputs_of(*size)
        for poison in (False, True):
            if poison and size[0] > 3:
                given[0][3] = float("nan")
            clean = found(slice(None), *given)
            scratch = softmax_native._room.scratch  # pyright: ignore[reportPrivateUsage]
            ctypes.memset(scratch.at_least(1), 0xFF, scratch._size)  # NaN everywhere  # pyright: ignore
            got = found(slice(None), *given)
            for one, other in zip(clean, got, strict=True):
                assert torch.equal(one.nan_to_num(), other.nan_to_num())
            wrong = [3] if poison and size[0] > 3 else []
            assert got[0].isnan().nonzero().flatten().tolist() == wrong
            assert got[1].isnan().any(1).nonzero().flatten().tolist() == wrong


def test_high_is_float32_where_three_products_do_not_pay(isa: str) -> None:
    given = inputs_of(33, 17, 97)
    torch.set_float32_matmul_precision("highest")
    exact = found(slice(None), *given)
    torch.set_float32_matmul_precision("high")
    same = all(torch.equal(one, other) for one, other in zip(exact, found(slice(None), *given), strict=True))
    assert same == (isa == "avx512bf16")


def test_bfloat16_h_asks_for_products_of_bfloat16() -> None:
    h, weight, bias, targets = inputs_of(33, 17, 97)
    medium = linear_cross_entropy(half(h), weight, bias, targets)
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(linear_cross_entropy(h.bfloat16(), weight, bias, targets), medium)
    assert not torch.equal(linear_cross_entropy(half(h), weight, bias, targets), medium)
