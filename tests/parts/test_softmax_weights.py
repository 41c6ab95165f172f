"""The fused loss with a weight for every token, and every token's loss: against torch's, however it is computed."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.nn import functional

from holdfast.engine import native, softmax_native
from holdfast.parts.softmax import Reduction, linear_cross_entropy

from .test_softmax import ISAS, SIZES, TOLERANCE, agree, leaves, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WAYS = [*ISAS, "torch in blocks"]
Loss = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    isa = native.isa() if native.available() else ""
    yield
    torch._dynamo.reset()
    if isa:
        native.use_isa(isa)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param in ISAS:
        native.use_isa(request.param)
    else:
        monkeypatch.setattr(softmax_native, "obstacle", lambda *_: "not now")
    return request.param


def weights_for(targets: Tensor) -> Tensor:
    """Unequal, some zero, some for ignored tokens."""
    weights = torch.rand(len(targets), generator=torch.Generator().manual_seed(1)) + 0.1
    weights[2::7] = 0
    return weights


def torchs(reduction: Reduction, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, w: Tensor) -> Tensor:
    logits = functional.linear(h, weight, bias)
    losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1) * w
    if reduction is Reduction.NONE:
        return losses
    return losses.sum() / (w[targets != -100].sum() if reduction is Reduction.MEAN else 1)


def ours(reduction: Reduction, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, w: Tensor) -> Tensor:
    return linear_cross_entropy(h, weight, bias, targets, label_smoothing=0.1, reduction=reduction, token_weights=w)


def everything(loss: Loss, inputs: list[Tensor | None], dtype: torch.dtype, reduction: Reduction) -> list[Tensor]:
    """Loss and gradients; of every token's loss those of a sum that weighs them otherwise once more."""
    (h, weight, bias), targets = leaves(inputs[:3], dtype), inputs[3]
    assert targets is not None and inputs[4] is not None
    w = inputs[4].to(dtype, copy=True).requires_grad_(reduction is Reduction.NONE)
    found = loss(reduction, h, weight, bias, targets, w)
    outer = torch.linspace(-1, 2, len(targets), dtype=dtype) if found.dim() else found.new_ones(())
    asked = [t for t in (h, weight, bias, w) if t is not None and t.requires_grad]
    return [found.detach(), *torch.autograd.grad(found, asked, outer)]


@pytest.mark.parametrize("reduction", list(Reduction))
def test_agrees_with_torch(way: str, reduction: Reduction) -> None:
    for size in SIZES[:4]:
        inputs, targets = make(*size, bias=size[0] % 2 == 0)
        given = [*inputs, targets, weights_for(targets)]
        agree(
            everything(ours, given, torch.float32, reduction),
            everything(torchs, given, torch.float64, reduction),
            # A loss in NONE is a difference of logits of some 5, rounded as they are, and is no mean of many.
            2 * TOLERANCE,
        )


def test_without_gradients_the_same() -> None:
    inputs, targets = make(37, 21, 301)
    h, weight, bias = leaves(inputs, torch.float32)
    assert h is not None and weight is not None
    for reduction in Reduction:
        wanted = ours(reduction, h, weight, bias, targets, weights_for(targets)).detach()
        with torch.no_grad():
            assert torch.equal(ours(reduction, h, weight, bias, targets, weights_for(targets)), wanted)


def test_ones_change_nothing() -> None:
    inputs, targets = make(37, 21, 301)
    h, weight, bias = leaves(inputs, torch.float32)
    assert h is not None and weight is not None
    plain = linear_cross_entropy(h, weight, bias, targets)
    weighted = linear_cross_entropy(h, weight, bias, targets, token_weights=torch.ones(37))
    torch.testing.assert_close(weighted, plain, rtol=1e-6, atol=0)
    every = linear_cross_entropy(h, weight, bias, targets, reduction=Reduction.NONE)
    assert every.shape == (37,) and not every[targets == -100].any()
    torch.testing.assert_close(every.sum() / (targets != -100).sum(), plain, rtol=1e-6, atol=0)


def test_where_nothing_counts() -> None:
    for weights, targets in ((torch.zeros(4), torch.arange(4)), (torch.ones(4), torch.full((4,), -100))):
        for reduction in Reduction:
            h, weight = torch.randn(4, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
            loss = linear_cross_entropy(h, weight, None, targets, reduction=reduction, token_weights=weights)
            loss.sum().backward()
            assert not loss.any() and weight.grad is not None and not weight.grad.any()
            assert h.grad is not None and not h.grad.any()


@pytest.mark.parametrize("reduction", list(Reduction))
def test_second_derivatives(reduction: Reduction) -> None:
    inputs, targets = make(5, 4, 7)
    w = weights_for(targets).double()
    h, weight, bias = leaves(inputs, torch.float64)

    def loss(*given: Tensor) -> Tensor:
        return ours(reduction, *given[:3], targets, given[3] if len(given) > 3 else w)

    given = (h, weight, bias, w.requires_grad_()) if reduction is Reduction.NONE else (h, weight, bias)
    assert torch.autograd.gradcheck(loss, given)
    assert torch.autograd.gradgradcheck(loss, given)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_compiles_whole(reduction: Reduction) -> None:
    inputs, targets = make(12, 5, 7)
    given = [*inputs, targets, weights_for(targets)]
    compiled: Loss = torch.compile(ours, backend="aot_eager", fullgraph=True)
    agree(
        everything(compiled, given, torch.float32, reduction), everything(torchs, given, torch.float64, reduction), 1e-5
    )


@pytest.mark.parametrize("reduction", list(Reduction))
def test_derivatives_of_every_kind(reduction: Reduction) -> None:
    (h, weight, bias), targets = make(6, 3, 4)
    assert h is not None and weight is not None and bias is not None
    w = weights_for(targets)
    exact = [t.double() for t in (h, weight, bias)]
    close = {"rtol": 1e-4, "atol": 1e-6}

    def squares(loss: Loss, h: Tensor, weight: Tensor, bias: Tensor, w: Tensor) -> Tensor:
        return loss(reduction, h, weight, bias, targets, w).pow(2).sum()

    for mine, wanted in zip(
        grad(squares, (1, 2, 3))(ours, h, weight, bias, w),
        grad(squares, (1, 2, 3))(torchs, *exact, w.double()),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), wanted, **close)

    def slopes(loss: Loss, h: Tensor, weight: Tensor, bias: Tensor, w: Tensor) -> Tensor:
        return grad(lambda weight: grad(lambda h: squares(loss, h, weight, bias, w))(h).pow(2).sum())(weight)

    torch.testing.assert_close(slopes(ours, h, weight, bias, w).double(), slopes(torchs, *exact, w.double()), **close)
    tangent = jvp(lambda h: squares(ours, h, weight, bias, w), (h,), (h.sin(),))[1]
    wanted = jvp(lambda h: squares(torchs, h, *exact[1:], w.double()), (exact[0],), (exact[0].sin(),))[1]
    torch.testing.assert_close(tangent.double(), wanted, **close)


def test_many_at_once() -> None:
    (h, weight, bias), targets = make(12, 5, 7)
    assert h is not None and weight is not None
    hs, ts, ws = h.view(3, 4, 5), targets.view(3, 4), weights_for(targets).view(3, 4)

    def losses(h: Tensor, targets: Tensor, w: Tensor) -> Tensor:
        return ours(Reduction.NONE, h, weight, bias, targets, w)

    found = vmap(losses)(hs, ts, ws)
    torch.testing.assert_close(found.flatten(), losses(h, targets, ws.flatten()))
    slopes = vmap(grad(lambda *a: losses(*a).sum()))(hs, ts, ws)
    torch.testing.assert_close(slopes.view(12, 5), grad(lambda *a: losses(*a).sum())(h, targets, ws.flatten()))


def test_misuse_is_named() -> None:
    h, weight, targets = torch.randn(4, 5), torch.randn(11, 5), torch.arange(4)
    with pytest.raises(ValueError, match=r"token_weights must be of floating point \[tokens 4\]"):
        linear_cross_entropy(h, weight, None, targets, token_weights=torch.ones(3))
    with pytest.raises(ValueError, match="token_weights must be of floating point"):
        linear_cross_entropy(h, weight, None, targets, token_weights=torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"with Reduction\.NONE alone"):
        linear_cross_entropy(h, weight, None, targets, token_weights=torch.ones(4, requires_grad=True))
