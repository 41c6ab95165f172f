"""The fused loss against torch's, in every way it can be computed, and what it promises beside right numbers.

Tolerance: 5e-6 of the largest element. A gradient's float32 sum over 999 words is wrong by 1e-6 to 2e-6 on these sizes
and the shortest registers; a missing bias or a target off by one is wrong by 1e-2.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.engine import native, softmax_native
from holdfast.engine.softmax_native import Wanted
from holdfast.parts import softmax_losses
from holdfast.parts.softmax import Reduction, linear_cross_entropy
from holdfast.parts.softmax_losses import Rule

ISAS = native.isas() if native.available() else []
needs_native = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
TOLERANCE = 5e-6
# (tokens, width, vocabulary): several chunks; tails everywhere; next to nothing; width over two panels; one word.
SIZES = [(300, 50, 999), (37, 21, 301), (1, 5, 3), (131, 130, 97), (9, 16, 1)]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    isa, threads = native.isa() if native.available() else "", torch.get_num_threads()
    yield
    if isa:
        native.use_isa(isa)
    torch.set_num_threads(threads)


def make(tokens: int, width: int, vocabulary: int, bias: bool = True) -> tuple[list[Tensor | None], Tensor]:
    rng = torch.Generator().manual_seed(tokens + width)
    h = torch.randn(tokens, width, generator=rng)
    weight = torch.randn(vocabulary, width, generator=rng) / width**0.5
    b = torch.randn(vocabulary, generator=rng) if bias else None
    targets = torch.randint(0, vocabulary, (tokens,), generator=rng)
    targets[3::5] = -100
    return [h, weight, b], targets


def leaves(inputs: list[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for t in inputs]


def gradients(loss: Tensor, inputs: list[Tensor | None]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [t for t in inputs if t is not None])]


def truth(inputs: list[Tensor | None], targets: Tensor, smoothing: float) -> list[Tensor]:
    h, weight, bias = exact = leaves(inputs, torch.float64)
    assert h is not None and weight is not None
    logits = functional.linear(h, weight, bias)
    return gradients(
        functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing) / count(targets), exact
    )


def count(targets: Tensor) -> int:
    return max(1, int((targets != -100).sum()))


def run(inputs: list[Tensor | None], targets: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    h, weight, bias = own = leaves(inputs, torch.float32)
    assert h is not None and weight is not None
    return gradients(linear_cross_entropy(h, weight, bias, targets, label_smoothing=smoothing), own)


def agree(got: list[Tensor], wanted: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item())


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("smoothing", "bias"), [(0.0, True), (0.1, False)])
def test_kernels_agree_with_torch(isa: str, size: tuple[int, int, int], smoothing: float, bias: bool) -> None:
    native.use_isa(isa)
    inputs, targets = make(*size, bias=bias)
    agree(run(inputs, targets, smoothing), truth(inputs, targets, smoothing))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("smoothing", "bias"), [(0.0, True), (0.1, False)])
def test_blocks_of_torch_agree_too(
    size: tuple[int, int, int], smoothing: float, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_losses, "BLOCK_BYTES", 7 * 4 * size[2])  # seven tokens
    monkeypatch.setattr(softmax_native, "obstacle", lambda *_: "not now")
    inputs, targets = make(*size, bias=bias)
    agree(run(inputs, targets, smoothing), truth(inputs, targets, smoothing))


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_on_any_number_of_threads_and_in_any_batch(isa: str) -> None:
    native.use_isa(isa)
    (h, weight, bias), targets = make(300, 50, 999)
    assert h is not None and weight is not None
    targets = targets.clamp(min=0)

    def found(threads: int, rows: slice) -> list[Tensor | None]:
        torch.set_num_threads(threads)
        wanted = Wanted(True, True, True)
        return list(softmax_native.cross_entropy(h[rows], weight, bias, targets[rows], 0.1, 1.0, wanted))

    alone = found(1, slice(None))
    for threads in (2, 3, 4):
        for one, other in zip(alone, found(threads, slice(None)), strict=True):
            assert one is not None and other is not None and torch.equal(one, other)
    for one, other in zip(alone[:2], found(1, slice(171, 190))[:2], strict=True):
        assert one is not None and other is not None and torch.equal(one[171:190], other)


@needs_native
def test_without_gradients_the_same_losses() -> None:
    (h, weight, bias), targets = make(300, 50, 999)
    assert h is not None and weight is not None
    with_them = linear_cross_entropy(h.clone().requires_grad_(), weight, bias, targets)
    assert torch.equal(with_them.detach(), linear_cross_entropy(h, weight, bias, targets))


def test_second_derivatives() -> None:
    inputs, targets = make(5, 4, 7)
    h, weight, bias = leaves(inputs, torch.float64)

    def loss(*given: Tensor) -> Tensor:
        return linear_cross_entropy(*given, targets, label_smoothing=0.2, reduction=Reduction.SUM)

    assert torch.autograd.gradcheck(loss, (h, weight, bias))
    assert torch.autograd.gradgradcheck(loss, (h, weight, bias))


def test_backward_twice_and_a_factor() -> None:
    inputs, targets = make(37, 21, 301)
    h, weight, bias = own = leaves(inputs, torch.float32)
    assert h is not None and weight is not None
    loss = 3 * linear_cross_entropy(h, weight, bias, targets)
    asked = [t for t in own if t is not None]
    first = torch.autograd.grad(loss, asked, retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(loss, asked)
    wanted = [3 * g for g in truth(inputs, targets, 0.0)[1:]]
    agree(list(first), wanted)
    for one, other in zip(kept, second, strict=True):
        assert torch.equal(one, other)


def test_tied_embedding() -> None:
    table = nn.Embedding(301, 21)
    targets = torch.arange(30).remainder(7)

    def both(loss: Callable[[Tensor], Tensor]) -> Tensor:
        (gradient,) = torch.autograd.grad(loss(table(targets + 1).tanh()), table.weight)
        return gradient

    ours = both(lambda h: linear_cross_entropy(h, table.weight, None, targets))
    theirs = both(lambda h: functional.cross_entropy(functional.linear(h, table.weight), targets))
    agree([ours], [theirs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights_too", [False, True])
def test_half_precision(dtype: torch.dtype, weights_too: bool) -> None:
    inputs, targets = make(37, 21, 301)
    rounded = [t if t is None or (n and not weights_too) else t.to(dtype) for n, t in enumerate(inputs)]
    h, weight, bias = own = [None if t is None else t.detach().requires_grad_() for t in rounded]
    assert h is not None and weight is not None
    got = gradients(linear_cross_entropy(h, weight, bias, targets), own)
    assert got[0].dtype == torch.float32 and got[1].dtype == dtype
    # bfloat16 has 8 bits: the results are rounded by 4e-3 relatively, logits in bfloat16 by as much of some 4.
    agree([g.double() for g in got], truth([t if t is None else t.float() for t in rounded], targets, 0.0), 2e-2)


def test_nothing_and_all_ignored() -> None:
    for tokens in (0, 4):
        h, weight = torch.randn(tokens, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
        loss = linear_cross_entropy(h, weight, None, torch.full((tokens,), -100))
        loss.backward()
        assert loss.item() == 0 and weight.grad is not None and not weight.grad.any()
        assert h.grad is not None and h.grad.shape == h.shape and not h.grad.any()


def test_large_logits_and_words_ruled_out() -> None:
    h, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[3e4, 0.0], [-3e4, 1.0], [2.99e4, 0.0]])
    assert linear_cross_entropy(h, weight, None, torch.tensor([1])).item() == pytest.approx(6e4)
    bias = torch.tensor([0.0, float("-inf"), 0.0])
    assert linear_cross_entropy(h * 0, weight, bias, torch.tensor([0])).item() == pytest.approx(0.693147, abs=1e-6)


def test_a_nan_stays_in_its_token() -> None:
    (h, weight, bias), targets = make(37, 21, 301)
    assert h is not None and weight is not None
    h[5] = float("nan")
    rule = Rule(0.0, 1.0)
    losses, dh, *_ = softmax_losses.losses_of(rule, targets.clamp(min=0), h, weight, bias, Wanted(True, False, False))
    assert dh is not None
    assert losses.isnan().nonzero().tolist() == [[5]]
    assert dh.isnan().any(1).nonzero().tolist() == [[5]]


def test_misuse_is_named() -> None:
    h, weight = torch.randn(4, 5), torch.randn(11, 5)
    with pytest.raises(ValueError, match="target 11 of token 2 lies outside the vocabulary, 0 to 10"):
        linear_cross_entropy(h, weight, None, torch.tensor([0, -100, 11, -7]))
    with pytest.raises(ValueError, match="targets must be int64"):
        linear_cross_entropy(h, weight, None, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="h must be"):
        linear_cross_entropy(h, weight[:, 1:], None, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="bias must be"):
        linear_cross_entropy(h, weight, torch.zeros(5), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="label_smoothing"):
        linear_cross_entropy(h, weight, None, torch.zeros(4, dtype=torch.int64), label_smoothing=1.0)


PEAK = """
import resource, torch
from holdfast.parts.softmax import linear_cross_entropy
torch.set_num_threads(1)
torch.set_float32_matmul_precision("PRECISION")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
h, weight = torch.zeros(6000, 8, requires_grad=True), torch.zeros(20000, 8, requires_grad=True)
few = h[:8].detach().requires_grad_()
linear_cross_entropy(few, weight, None, torch.arange(8)).backward()
before = peak()
linear_cross_entropy(h, weight, None, torch.arange(6000)).backward()
print(peak() - before)
"""


@needs_native
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_memory_does_not_grow_with_the_tokens(precision: str) -> None:
    """The logits of all tokens would take 458 MiB, as would their gradients; a chunk's take 23, of AMX's words 160."""
    code = PEAK.replace("PRECISION", precision)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < (180 if precision == "medium" and native.isa() == "amx" else 40)


def test_lazily_negated_tensors_count_with_their_sign() -> None:
    (h, weight, bias), targets = make(9, 5, 13)
    assert bias is not None
    plain = linear_cross_entropy(-h, -weight, -bias, targets)
    lazy = linear_cross_entropy(*(torch._neg_view(t) for t in (h, weight, bias)), targets)  # pyright: ignore
    torch.testing.assert_close(lazy, plain)
