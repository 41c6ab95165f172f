"""bfloat16 modules and autocast: the dtypes are torch's, the values at least as near to float64 as torch's own.

Tolerance: a bfloat16 has 8 bits, so one rounding is wrong by up to 2^-9, and torch rounds at every step. What comes out
of ours has been rounded once, and the factors of its products: 0.02 of the largest element holds for two layers.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from holdfast.engine import LSTM, Cell, LSTMLayer, State, accelerate, backend_report, lstm, native
from holdfast.engine.backend import NATIVE_BFLOAT16, OPERATOR_BFLOAT16, SECOND_ORDER, TANGENTS
from holdfast.engine.recompute import lstm_recomputed

from .single_layer import distance, make, needs_native
from .test_variants import CELLS, variant_of

pytestmark = [
    needs_native,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 7
WAYS = ("autocast", "autocast of bfloat16", "bfloat16 module")
multiplies = native.available() and native.multiplies_bfloat16()
needs_products = pytest.mark.skipif(not multiplies, reason="this CPU has no products of bfloat16")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def casting(way: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.startswith("autocast"))


def step(module: nn.Module, x: Tensor, hx: tuple[Tensor, Tensor] | None, packed: bool, way: str) -> list[Tensor]:
    """y, h, c and the gradients of x, of the states and of the parameters, of one training step."""
    leaves = [t.clone().requires_grad_() for t in (x, *(hx or ()))]
    x = leaves[0]
    given: Any = pack_padded_sequence(x, torch.tensor([2, 5, 4]), enforce_sorted=False) if packed else x
    with casting(way):
        y, (h, c) = module(given, tuple(leaves[1:]) if hx else None)
        y = y.data if isinstance(y, PackedSequence) else y
        loss = y.double().pow(2).sum() + (h.double().sum(-1) * c.double().sum(-1)).sum()
    return [y, h, c, *torch.autograd.grad(loss, [*leaves, *module.parameters()])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"proj_size": 2}, {"bias": False, "batch_first": True}])
def test_dtypes_are_torchs_and_values_nearer(way: str, state: bool, packed: bool, options: dict[str, Any]) -> None:
    if not (packed or options.get("proj_size") or multiplies):
        pytest.skip("this CPU has no products of bfloat16: torch's operator runs")
    if packed and options.get("batch_first"):
        pytest.skip("no batch axis")
    torch.manual_seed(0)
    theirs = nn.LSTM(FEATURES, HIDDEN, 2, **options)
    exact = copy.deepcopy(theirs).double()
    ours = accelerate(copy.deepcopy(theirs))
    x = normal(TIME, BATCH, FEATURES)
    places = 4 if theirs.bidirectional else 2
    hx = (normal(places, BATCH, theirs.proj_size or HIDDEN), normal(places, BATCH, HIDDEN) * 2) if state else None
    if way == "bfloat16 module":
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    if way != "autocast":  # after a linear layer under autocast, too
        x, hx = x.bfloat16(), None if hx is None else tuple(t.bfloat16() for t in hx)
    if options.get("batch_first"):
        x = x.transpose(0, 1)
    backend_report(reset=True)
    mine = step(ours, x, hx, packed, way)
    assert backend_report().calls == {NATIVE_BFLOAT16: places}
    wanted = step(theirs, x, hx, packed, way)
    assert [t.dtype for t in mine] == [t.dtype for t in wanted]
    truth = step(exact, x.double(), None if hx is None else tuple(t.double() for t in hx), packed, "float64")
    for own, other, expected in zip(mine, wanted, truth, strict=True):
        error = distance(own, expected)
        assert error < 0.02 and error < 0.004 + 1.5 * distance(other, expected)


@needs_products
def test_nothing_is_rounded_on_the_way() -> None:
    """From layer to layer float32 goes: under autocast the parameters' gradients are those of medium precision."""
    ours, x = LSTM(FEATURES, HIDDEN, 3, bidirectional=True), normal(9, BATCH, FEATURES)
    dy = normal(9, BATCH, 2 * HIDDEN).bfloat16()
    with casting("autocast"):
        y = ours(x)[0]
    found = torch.autograd.grad(y, list(ours.parameters()), dy)
    torch.set_float32_matmul_precision("medium")
    try:
        wanted_y = ours(x)[0]
        wanted = torch.autograd.grad(wanted_y, list(ours.parameters()), dy.float())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(y, wanted_y.bfloat16()) and not torch.equal(y.float(), wanted_y)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["plain", *CELLS])
def test_the_function_takes_every_cell(way: str, name: str) -> None:
    """Ragged, with whatever the cell has; only torch's own operator would run a plain one without lengths."""
    case = make(TIME, BATCH, ragged=True)
    case = case if name == "plain" else variant_of(case, name)
    dtype = torch.float32 if way == "autocast" else torch.bfloat16
    mask = case.variant.h_mask
    variant = case.variant._replace(h_mask=None if mask is None else mask.to(dtype))

    def run(x: Tensor, h0: Tensor, c0: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        given = type(case.weights())(*weights)
        y, last = lstm(x, given, State(h0, c0), lengths=case.lengths, variant=variant)
        return y, *last

    inputs = [case.x, case.h0, case.c0, *case.weights()]
    narrow = [t if t is None else t.to(dtype) for t in inputs]
    backend_report(reset=True)
    with casting(way):
        found = run(*narrow)  # pyright: ignore
    assert set(backend_report().calls) == {NATIVE_BFLOAT16}
    assert {t.dtype for t in found} == {torch.bfloat16}
    variant = case.variant
    rounded = [t if t is None else t.float() for t in narrow]
    for mine, wanted in zip(found, run(*rounded), strict=True):  # pyright: ignore
        assert distance(mine, wanted.double()) < 0.02


@pytest.mark.parametrize("way", WAYS)
def test_layers_of_other_cells(way: str) -> None:
    torch.manual_seed(0)
    layer = LSTMLayer(FEATURES, HIDDEN, Cell(peephole=True, coupled=True, dropout_h=0.2, learnt_state=True))
    x = normal(TIME, BATCH, FEATURES)
    layer = layer.bfloat16() if way == "bfloat16 module" else layer
    x = x if way == "autocast" else x.bfloat16()
    resets = torch.zeros(TIME, BATCH, dtype=torch.bool)
    resets[2, 1] = True
    with casting(way):
        y, (h, _) = layer(x, resets=resets)
    assert y.dtype == h.dtype == torch.bfloat16
    y.float().pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in layer.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_transforms_and_derivatives_of_the_second_kind(way: str) -> None:
    torch.manual_seed(0)
    ours, x = LSTM(FEATURES, HIDDEN, proj_size=3), normal(TIME, BATCH, FEATURES)
    exact = copy.deepcopy(ours).double()
    along = normal(TIME, BATCH, FEATURES)
    if way == "bfloat16 module":
        ours = ours.bfloat16()
    if way != "autocast":
        x, along = x.bfloat16(), along.bfloat16()

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        with casting(way if module is ours else "float64"):
            y, (h, _) = module(x)
        return y.float().pow(2).sum() + h.float().sum() if module is ours else y.pow(2).sum() + h.sum()

    def near(mine: Tensor, wanted: Tensor) -> None:
        assert wanted.abs().max() > 1e-2
        assert distance(mine / wanted.abs().max(), wanted / wanted.abs().max()) < 0.03

    leaf = x.double().requires_grad_()
    (first,) = torch.autograd.grad(loss(exact, leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * along.double()).sum(), leaf)
    backend_report(reset=True)
    found = grad(lambda x: loss(ours, x))(x)
    assert found.dtype == x.dtype and set(backend_report().calls) == {OPERATOR_BFLOAT16}
    near(found, first.detach())
    near(vmap(grad(lambda x: loss(ours, x)))(torch.stack([x, -x]))[0], first.detach())
    slope = jvp(lambda x: loss(ours, x), (x,), (along,))[1]
    near(slope.reshape(1), (first.detach() * along.double()).sum().reshape(1))
    leaf = x.clone().requires_grad_()
    (again,) = torch.autograd.grad(loss(ours, leaf), leaf, create_graph=True)
    (found,) = torch.autograd.grad((again.float() * along.float()).sum(), leaf)
    near(found, second)
    names = {choice.reason for choice in backend_report().calls}
    assert {TANGENTS.reason, SECOND_ORDER.reason} <= names


@pytest.fixture
def _switch() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
    torch._dynamo.reset()


@needs_products
@pytest.mark.usefixtures("_switch")
@pytest.mark.parametrize("way", ["autocast", "bfloat16 module"])
def test_training_compiles(way: str) -> None:
    """Under autocast too, where torch's own LSTM operator fails in torch 2.13."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), LSTM(FEATURES, HIDDEN, 2))
    x = normal(TIME, BATCH, FEATURES)
    model, x = (model.bfloat16(), x.bfloat16()) if way == "bfloat16 module" else (model, x)

    def run(model: Any) -> list[Tensor]:
        with casting(way):
            y, (h, _) = model(x)
            loss = y.float().pow(2).sum() + h.float().sum()
        return [y, *torch.autograd.grad(loss, list(model.parameters()))]

    wanted = run(model)
    backend_report(reset=True)
    found = run(torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True))
    assert backend_report().calls == {OPERATOR_BFLOAT16: 2}
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_without_such_products_torchs_operator_runs_where_it_is_fast() -> None:
    native.use_isa("generic")
    ours = LSTM(FEATURES, HIDDEN).bfloat16()
    x = normal(TIME, BATCH, FEATURES).bfloat16()
    backend_report(reset=True)
    ours(x)
    assert {(c.backend, c.bfloat16) for c in backend_report(reset=True).calls} == {("torch", False)}
    ours(pack_padded_sequence(x, torch.tensor([5, 4, 1])))
    assert set(backend_report(reset=True).calls) == {NATIVE_BFLOAT16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_torchs(dtype: torch.dtype) -> None:
    ours = LSTM(FEATURES, HIDDEN).to(dtype)
    with torch.no_grad():
        backend_report(reset=True)
        assert ours(normal(TIME, BATCH, FEATURES).to(dtype))[0].dtype == dtype
    assert {choice.backend for choice in backend_report().calls} == {"torch"}


def test_autocast_to_float16_is_torchs() -> None:
    ours = LSTM(FEATURES, HIDDEN)
    with torch.autocast("cpu", dtype=torch.float16):
        assert backend_of(ours) == {"torch"}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert backend_of(ours) == {"native"}
        assert ours(normal(TIME, BATCH, FEATURES))[0].dtype == torch.float32


def backend_of(module: LSTM) -> set[str]:
    return (
        {module.choose(normal(TIME, BATCH, FEATURES)).backend} if module.choose(normal(1, 1, FEATURES)) else {"torch"}
    )


def test_a_mixture_is_an_error_as_ever() -> None:
    with pytest.raises(ValueError, match="dtype"):
        LSTM(FEATURES, HIDDEN).bfloat16()(normal(TIME, BATCH, FEATURES))
    with pytest.raises(ValueError, match="h0 came as"), casting("autocast"):
        LSTM(FEATURES, HIDDEN, proj_size=2)(
            normal(TIME, BATCH, FEATURES), (normal(1, BATCH, 2).double(), normal(1, BATCH, HIDDEN))
        )


@needs_products
@pytest.mark.parametrize("way", WAYS)
def test_recomputed_in_chunks(way: str) -> None:
    case = make(9, BATCH)
    dtype = torch.float32 if way == "autocast" else torch.bfloat16
    found: list[list[Tensor]] = []
    for run in (lambda *a: lstm_recomputed(*a, chunk=4), lstm):
        leaves = [t.to(dtype).requires_grad_() for t in (case.x, *case.weights()[:3])]  # pyright: ignore
        with casting(way):
            y, last = run(leaves[0], type(case.weights())(*leaves[1:]))
        found.append([y, *last, *torch.autograd.grad(y.float().pow(2).sum(), leaves)])
    for mine, wanted in zip(*found, strict=True):
        assert mine.dtype == wanted.dtype
        assert distance(mine, wanted.double()) < 0.01
    assert torch.equal(found[0][0], found[1][0])
