"""The operator holdfast::lstm for every cell: torch's demands on it; compilers, exports and torch.func run it.

The truth for values is the eager call, which runs the same kernels; for derivatives the reference in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.library import opcheck

from holdfast.engine import (
    LSTM,
    Cell,
    Connection,
    LSTMLayer,
    LSTMStack,
    Variant,
    Zoneout,
    backend_report,
    lstm,
    operator,
    reference,
)
from holdfast.engine.backend import OPERATOR
from holdfast.engine.cells import State, Weights, seed_tensor

from .single_layer import Case, distance, make, needs_native, truth
from .test_variants import CELLS, variant_of

pytestmark = [
    needs_native,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]
KINDS = ("plain", *CELLS)
FEATURES, HIDDEN = 4, 7
STACK = {  # a layer of each, and its units
    Cell(peephole=True, coupled=True, bias=False): 5,
    Cell(projection=3, zoneout_c=0.3): HIDDEN,
    Cell(normalised=True, dropout_h=0.3): 6,
    Cell(exponential=True, learnt_state=True): 4,
    Cell(zoneout_h=0.2, zoneout_c=0.4, weight_drop=0.2): 3,
}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def case_of(name: str, *size: int, **more: Any) -> Case:
    case = make(*size, **more)
    return case if name == "plain" else variant_of(case, name)


def call_of(case: Case, bfloat16: bool = False) -> operator.Call:
    state = None if case.h0 is None or case.c0 is None else (case.h0, case.c0)
    return operator.call_of(case.x, case.weights(), state, case.lengths, case.reverse, case.variant, bfloat16)


def with_gradients(call: operator.Call) -> operator.Call:
    asked = (t if t is None else t.detach().requires_grad_() for t in call[: operator.WITH_GRADIENT])
    return operator.Call(*asked, *call[operator.WITH_GRADIENT :])


@pytest.fixture
def _dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", KINDS)
def test_opcheck(name: str) -> None:
    """torch's own tests of an operator: its schema, autograd, shapes without numbers, and dynamic shapes."""
    case = case_of(name, ragged=True, reverse=len(name) % 2 == 0)
    opcheck(operator.lstm, with_gradients(call_of(case)))
    for form in (case, case.packed(), replace(case, lengths=None, h0=None, c0=None, b=None)):
        call = call_of(form)
        opcheck(operator.lstm, call, test_utils=("test_schema", "test_faketensor"))
        opcheck(operator.keeping, call, test_utils=("test_schema", "test_faketensor"))
        y, _, _, kept = operator.keeping(*call)
        backward = (torch.ones_like(y), None, None, y, kept, True, *call)
        opcheck(operator.backward, backward, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("form", ["no bias, no state", "batch first", "bfloat16"])
def test_opcheck_of_forms(form: str) -> None:
    case = make(reverse=True)
    if form == "no bias, no state":
        case = replace(case, b=None, h0=None, c0=None)
    if form == "batch first":
        case = replace(case, x=case.x.transpose(0, 1).contiguous().transpose(0, 1))
    opcheck(operator.lstm, with_gradients(call_of(case, form == "bfloat16")))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_through_the_operator_and_through_torch_func(name: str) -> None:
    case = case_of(name, ragged=True)
    call = call_of(case)
    places = [n for n in range(operator.WITH_GRADIENT) if call[n] is not None]
    order = ("dx", "dh0", "dc0", "dw_input", "dw_recurrent", "dbias", "dprojection", "dpeephole")
    names = (*order, "dgain_x", "dgain_h", "dgain_c", "dbias_c")

    def value(*given: Tensor) -> Tensor:
        every: list[Any] = list(call)
        for place, t in zip(places, given, strict=True):
            every[place] = t
        y, h, c = operator.lstm(*every)
        return sum((out * g).sum() for out, g in ((y, case.dy), (h, case.dh), (c, case.dc)))  # pyright: ignore

    backend_report(reset=True)
    found = grad(value, tuple(range(len(places))))(*(call[n] for n in places))
    assert backend_report().calls == {OPERATOR: 1}  # and no reference for the backward pass
    leaves = [call[n].detach().requires_grad_() for n in places]
    by_autograd = torch.autograd.grad(value(*leaves), leaves)
    wanted = truth(case)
    for place, mine, other in zip(places, found, by_autograd, strict=True):
        assert distance(mine, wanted[names[place]]) < 5e-5, names[place]
        assert torch.equal(mine, other), names[place]


@pytest.mark.parametrize(
    "name", ["peephole coupled", "projection zoneout", "normalised mask projection", "exponential"]
)
def test_second_and_forward_derivatives_are_the_references(name: str) -> None:
    """And never zero: against the reference in float64, differentiated by plain autograd."""
    case = case_of(name, 3, 2, 2, 3)
    call, along = call_of(case), normal(3, 2, 2)
    exact = operator.Call(*(t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in call))

    def loss(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        y, h, c = outputs
        return y.pow(2).sum() + h.sin().sum() + (0 if case.variant.exponential else c.sin().sum())

    def value(x: Tensor) -> Tensor:
        return loss(operator.lstm(*call._replace(x=x)))

    x = case.x.double().requires_grad_()
    (first,) = torch.autograd.grad(loss(exact._replace(x=x).by_reference()), x)
    second = torch.autograd.functional.hessian(lambda x: loss(exact._replace(x=x).by_reference()), case.x.double())
    assert second.abs().max() > 1e-2
    close = {"rtol": 1e-3, "atol": 1e-4 * second.abs().max().item()}
    torch.testing.assert_close(jvp(value, (case.x,), (along,))[1].double(), (first * along).sum(), **close)
    torch.testing.assert_close(hessian(value)(case.x).double(), second, **close)
    twice = grad(lambda x: (grad(value)(x) * along).sum())(case.x)
    torch.testing.assert_close(twice.double(), (second * along).sum((3, 4, 5)), **close)


@pytest.mark.parametrize("name", KINDS)
def test_vmap_is_one_call_after_another(name: str) -> None:
    """Over samples, states, lengths and weights, with and without gradients: the bits of calls alone."""
    case = case_of(name)
    call = call_of(replace(case, lengths=torch.tensor([4, 0, 5])))

    def value(x: Tensor, c0: Tensor, lengths: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return operator.lstm(*call._replace(x=x, c0=c0, lengths=lengths, w_recurrent=r))

    def loss(*given: Tensor) -> Tensor:
        y, h, c = value(*given)
        return y.pow(2).sum() + h.sum() + c.sum()

    x = torch.stack([case.x, case.x.flip(0)])
    c0, r = (torch.stack([t, t * 0.5]) for t in (call.c0, call.w_recurrent))
    lengths = torch.tensor([[4, 0, 5], [1, 5, 2]])
    both = (x, c0, lengths, r)
    for mapped in ((0,), (0, 1, 2), (3,), (0, 3)):
        in_dims = tuple(0 if n in mapped else None for n in range(4))
        given = [t if n in mapped else t[0] for n, t in enumerate(both)]
        for function in (value, grad(loss, (0, 3))):
            found = vmap(function, in_dims=in_dims)(*given)
            for sample in range(2):
                wanted = function(*(t[sample] if n in mapped else t for n, t in enumerate(given)))
                for mine, alone in zip(found, wanted, strict=True):
                    torch.testing.assert_close(mine[sample], alone, rtol=1e-5, atol=1e-6)


class Model(nn.Module):
    """A stack of all cells between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.before = nn.Linear(FEATURES, FEATURES)
        self.stack = LSTMStack(FEATURES, list(STACK.values()), list(STACK), connection=Connection.RESIDUAL)
        self.back = LSTMLayer(FEATURES, HIDDEN, Cell(peephole=True))
        self.after = nn.Linear(self.stack.output_size, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.before(x).relu()
        y, states = self.stack(x, lengths=lengths)
        return self.after(y), states[3].c, self.back(x, lengths=lengths, reverse=True)[0]


def outputs_and_gradients(run: Any, module: nn.Module, x: Tensor, lengths: Tensor) -> list[Tensor]:
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    outputs = run(x, lengths)
    loss = sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.usefixtures("_dynamo")
def test_every_cell_compiles_whole() -> None:
    """Dynamic batch and time, training with its draws, no switch of torch's needed: a stack is no nn.LSTM."""
    model = Model()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, time in ((3, 5), (2, 9), (7, 4)):
        x, lengths = normal(time, batch, FEATURES), torch.arange(batch).mul(5).remainder(time + 1)
        wanted = outputs_and_gradients(model, model, x, lengths)
        backend_report(reset=True)
        found = outputs_and_gradients(compiled, model, x, lengths)
        assert backend_report().calls == {OPERATOR: 6}
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_every_cell_exports() -> None:
    model = Model().eval()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    example = (normal(5, 3, FEATURES), torch.tensor([5, 0, 2]))
    program = torch.export.export(model, example, dynamic_shapes={"x": {0: time, 1: batch}, "lengths": {0: batch}})
    calls = [str(node.target) for node in program.graph.nodes if "holdfast" in str(node.target)]
    assert calls == ["holdfast.lstm.default"] * 6
    given = (normal(8, 2, FEATURES), torch.tensor([0, 7]))
    torch.testing.assert_close(program.module()(*given), model(*given), rtol=1e-6, atol=1e-6)


def test_a_compiled_module_with_a_projection_runs_the_kernels() -> None:
    torch._dynamo.reset()
    model, x = LSTM(FEATURES, HIDDEN, 2, proj_size=3), normal(5, 3, FEATURES)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        backend_report(reset=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
        assert backend_report().calls[OPERATOR] == 2
    torch._dynamo.reset()


# What is drawn


def zoneout_layer() -> LSTMLayer:
    torch.manual_seed(4)
    return LSTMLayer(FEATURES, HIDDEN, Cell(zoneout_h=0.3, zoneout_c=0.3))


def run_of(layer: LSTMLayer) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x)[0]


@pytest.mark.parametrize("cell", [Cell(zoneout_h=0.3, zoneout_c=0.3), Cell(dropout_h=0.5), Cell(weight_drop=0.5)])
def test_vmap_draws_as_it_is_told_to(cell: Cell) -> None:
    """torch's three ways: an error, one draw for all samples, one for each."""
    torch.manual_seed(4)
    layer, x = LSTMLayer(FEATURES, HIDDEN, cell), normal(1, 6, 3, FEATURES).expand(4, 6, 3, FEATURES)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(run_of(layer))(x)
    same = vmap(run_of(layer), randomness="same")(x)
    assert all(torch.equal(sample, same[0]) for sample in same)
    assert not torch.equal(vmap(run_of(layer), randomness="same")(x), same)
    different = vmap(run_of(layer), randomness="different")(x)
    assert all(not torch.equal(one, other) for n, one in enumerate(different) for other in different[:n])
    layer.eval()
    torch.testing.assert_close(vmap(run_of(layer))(x)[2], layer(x[2])[0])


def test_gradients_per_sample_see_the_same_draw() -> None:
    layer, x = zoneout_layer(), normal(6, 3, FEATURES)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(layer, parameters, (row.unsqueeze(1),))[0].pow(2).sum()

    torch.manual_seed(9)
    found = vmap(grad(loss), in_dims=(None, 1), randomness="same")(parameters, x)
    for n in range(3):
        torch.manual_seed(9)
        alone = grad(loss)(parameters, x[:, n])
        for name in parameters:
            torch.testing.assert_close(found[name][n], alone[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 3, 2**62 + 5, 2**63 + 1, 2**64 - 1])
def test_a_seed_is_the_same_as_number_and_as_tensor(seed: int) -> None:
    case = case_of("zoneout")

    def run(seed: int | Tensor, layer: Any) -> Tensor:
        variant = Variant(zoneout=Zoneout(0.3, 0.4, seed))
        return layer(case.x, case.weights(), State(case.h0, case.c0), variant=variant)[0]

    wanted = run(seed, lstm)
    assert torch.equal(run(seed_tensor(seed), lstm), wanted)
    for given in (seed, seed_tensor(seed)):
        torch.testing.assert_close(run(given, reference.lstm), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(run((seed + 1) % 2**64, lstm), wanted)


def test_a_seed_changed_before_the_backward_pass_changes_nothing() -> None:
    case, seed = case_of("zoneout"), torch.tensor(3)
    found: list[Tensor] = []
    for change in (0, 1):
        x = case.x.clone().requires_grad_()
        y, _ = lstm(x, case.weights(), variant=Variant(zoneout=Zoneout(0.3, 0.4, seed)))
        seed += change
        found += torch.autograd.grad(y.sum(), x)
    assert torch.equal(*found)


def test_a_zero_without_numbers_counts_as_zero() -> None:
    """torch._efficientzerotensor, torch's own stand-in for tangents, has no memory: its address is NULL."""
    case = make()
    nothing = torch._efficientzerotensor(case.x.shape)
    state = State(torch._efficientzerotensor(case.h0.shape), case.c0)
    y, _ = lstm(nothing, Weights(*case.weights()[:3]), state)
    assert torch.equal(y, lstm(case.x * 0, case.weights(), State(case.h0 * 0, case.c0))[0])
    x = case.x.clone().requires_grad_()
    y, last = lstm(x, case.weights())
    (found,) = torch.autograd.grad((y, last.h), x, (torch._efficientzerotensor(y.shape), case.dh))
    (wanted,) = torch.autograd.grad(lstm(x, case.weights())[1].h, x, case.dh)
    torch.testing.assert_close(found, wanted)
