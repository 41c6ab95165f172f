"""The fused loss under torch.compile and torch.func: the eager call's numbers, torch's derivatives of every kind."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.func import grad, hessian, jvp, vmap
from torch.library import opcheck
from torch.nn import functional

from holdfast.parts import softmax_operator
from holdfast.parts.softmax import Reduction, linear_cross_entropy

from .test_softmax import make

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def torchs(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float = 0.1) -> Tensor:
    logits = functional.linear(h, weight, bias)
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def ours(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return linear_cross_entropy(h, weight, bias, targets, label_smoothing=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck(bias: bool, dtype: torch.dtype) -> None:
    (h, weight, b), targets = make(11, 5, 7, bias)
    assert h is not None and weight is not None
    h = h.to(dtype)
    weight, b = (t if t is None or dtype != torch.float64 else t.double() for t in (weight, b))
    rest = (targets, torch.linspace(0, 2, 11, dtype=h.dtype) if bias else None, -100, 0.1, True)
    given = [None if t is None else t.detach().requires_grad_(dtype != torch.bfloat16) for t in (h, weight, b)]
    opcheck(softmax_operator.linear_cross_entropy, (*given, *rest))
    opcheck(
        softmax_operator.keeping,
        (h, weight, b, *rest, True, False, bias),
        test_utils=("test_schema", "test_faketensor"),
    )
    _, *ready = softmax_operator.keeping(h, weight, b, *rest, True, True, bias)
    factor = torch.tensor(2.0, dtype=ready[0].dtype)
    opcheck(
        softmax_operator.backward,
        (factor, *ready, h, weight, b, *rest),
        test_utils=("test_schema", "test_faketensor"),
    )


class Head(nn.Module):
    """A layer, and the fused loss of what it makes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = nn.Linear(5, 6), nn.Linear(6, 9)

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        h = self.layer(x).tanh()
        total = linear_cross_entropy(h, self.out.weight, self.out.bias, targets, reduction=Reduction.SUM)
        return total + 2 * ours(h, self.out.weight, None, targets)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor writes C++, and there is no g++")
def test_compiles_to_machine_code() -> None:
    model, x, targets = Head(), torch.randn(7, 5), torch.arange(7)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, dynamic=True)(x, targets)
        torch.testing.assert_close(found, model(x, targets), **CLOSE)


def test_compiles_whole_for_any_number_of_tokens() -> None:
    model = Head()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (7, 12, 3):
        x, targets = torch.randn(tokens, 5), torch.arange(tokens) % 9
        targets[1::3] = -100
        found: list[list[Tensor]] = []
        for run in (model, compiled):
            leaf = x.clone().requires_grad_()
            loss = run(leaf, targets)
            found.append([loss, *torch.autograd.grad(loss, [leaf, *model.parameters()])])
        torch.testing.assert_close(found[1], found[0], **CLOSE)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, targets), found[0][0].detach(), **CLOSE)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # with gradients and without
    with pytest.raises(ValueError, match="target 9 of token 2"):
        compiled(torch.randn(4, 5), torch.tensor([1, 2, 9, 3]))


@pytest.mark.parametrize("bias", [False, True])
def test_derivatives_of_every_kind(bias: bool) -> None:
    (h, weight, b), targets = make(6, 3, 4, bias)
    assert h is not None and weight is not None
    exact = [None if t is None else t.double() for t in (h, weight, b)]
    order = (0, 1, 2) if bias else (0, 1)
    for mine, wanted in zip(
        grad(ours, order)(h, weight, b, targets), grad(torchs, order)(*exact, targets), strict=True
    ):
        torch.testing.assert_close(mine.double(), wanted, **CLOSE)
    tangent = h.sin()
    slope = jvp(lambda h: ours(h, weight, b, targets), (h,), (tangent,))[1]
    wanted = jvp(lambda h: torchs(h, *exact[1:], targets), (exact[0],), (tangent.double(),))[1]
    assert wanted.abs() > 1e-2
    torch.testing.assert_close(slope.double(), wanted, **CLOSE)
    second = hessian(ours, (0, 1))(h, weight, b, targets)
    other = hessian(torchs, (0, 1))(*exact, targets)
    for row, expected in zip(second, other, strict=True):
        for mine, wanted in zip(row, expected, strict=True):
            assert wanted.abs().max() > 1e-3
            torch.testing.assert_close(mine.double(), wanted, **CLOSE)
    twice = grad(lambda w: grad(ours)(h, w, b, targets).pow(2).sum())(weight)
    wanted = grad(lambda w: grad(torchs)(exact[0], w, exact[2], targets).pow(2).sum())(exact[1])
    torch.testing.assert_close(twice.double(), wanted, **CLOSE)


def test_many_at_once() -> None:
    (h, weight, bias), targets = make(12, 5, 7)
    assert h is not None and weight is not None and bias is not None
    hs, ts = h.view(3, 4, 5), targets.view(3, 4)
    found = vmap(grad(ours, (0, 1)), in_dims=(0, None, None, 0))(hs, weight, bias, ts)
    for n in range(3):
        for mine, alone in zip(found, grad(ours, (0, 1))(hs[n], weight, bias, ts[n]), strict=True):
            torch.testing.assert_close(mine[n], alone, **CLOSE)
    weights = torch.stack([weight, -weight])
    losses = vmap(ours, in_dims=(None, 0, None, None))(h, weights, bias, targets)
    torch.testing.assert_close(losses[1], ours(h, -weight, bias, targets), **CLOSE)


def test_exports_with_its_targets() -> None:
    model: Any = Head()
    tokens = torch.export.Dim("tokens")
    given = (torch.randn(6, 5), torch.arange(6))
    program = torch.export.export(model, given, dynamic_shapes={"x": {0: tokens}, "targets": {0: tokens}})
    x, targets = torch.randn(9, 5), torch.arange(9).flip(0)
    torch.testing.assert_close(program.module()(x, targets), model(x, targets), **CLOSE)


def test_a_zero_without_numbers_counts_as_zero() -> None:
    (_, weight, bias), targets = make(6, 5, 7)
    assert weight is not None
    found = linear_cross_entropy(torch._efficientzerotensor((6, 5)), weight, bias, targets)
    torch.testing.assert_close(found, linear_cross_entropy(torch.zeros(6, 5), weight, bias, targets))
