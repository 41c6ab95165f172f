"""torch.func, forward-mode derivatives and derivatives of derivatives: right, or refused, never silently zero.

The truth is torch.nn.LSTM in float64, differentiated by plain autograd. Tolerance: float32 rounding through two layers
and five steps, twice where a derivative is taken twice; a forgotten term is wrong by more than a hundredth.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils.rnn import pack_sequence

from holdfast.engine import LSTM, Weights, backend_report, lstm, operator, reference
from holdfast.engine.backend import NATIVE, OPERATOR, TANGENTS
from holdfast.engine.reference import State

from .single_layer import make, needs_native

pytestmark = [
    needs_native,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # torch's own jvp uses it
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),  # torch's word on its slow path
]
BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 7


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X = normal(TIME, BATCH, FEATURES)
TANGENT = normal(BATCH, TIME, FEATURES).transpose(0, 1)


@pytest.fixture
def pair() -> tuple[LSTM, nn.LSTM]:
    """Two layers, two directions, and the same in float64."""
    torch.manual_seed(0)
    ours = LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
    theirs = nn.LSTM(FEATURES, HIDDEN, 2, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def loss(module: nn.Module, x: Tensor) -> Tensor:
    y, (h, c) = module(x)
    return y.pow(2).sum() + (h * c).sum()


def truth(theirs: nn.LSTM) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the loss by x, in float64."""
    x = X.double().requires_grad_()
    (first,) = torch.autograd.grad(loss(theirs, x), x)
    return first, torch.autograd.functional.hessian(lambda x: loss(theirs, x), x)


def close(mine: Tensor, wanted: Tensor) -> None:
    assert wanted.abs().max() > 1e-2, "nothing to compare"
    torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=1e-5)


def backends() -> set[str]:
    return {choice.backend for choice in backend_report(reset=True).calls}


def test_gradients(pair: tuple[LSTM, nn.LSTM]) -> None:
    ours, theirs = pair
    first, _ = truth(theirs)
    backend_report(reset=True)
    close(grad(lambda x: loss(ours, x))(X), first)
    close(vjp(lambda x: loss(ours, x), X)[1](torch.ones(()))[0], first)
    assert backends() == {"native"}


def test_jacobians(pair: tuple[LSTM, nn.LSTM]) -> None:
    ours, theirs = pair
    wanted = torch.autograd.functional.jacobian(lambda x: theirs(x)[1][0], X.double())
    backend_report(reset=True)
    close(jacrev(lambda x: ours(x)[1][0])(X), wanted)
    assert backends() == {"native"}
    close(jacfwd(lambda x: ours(x)[1][0])(X), wanted)
    assert backends() == {"reference"}


SECOND_ORDER: list[Callable[[Callable[[Tensor], Tensor]], Any]] = [
    hessian,
    lambda f: jacrev(jacrev(f)),
    lambda f: jacrev(jacfwd(f)),
    lambda f: jacfwd(jacfwd(f)),
    lambda f: jacfwd(grad(f)),
]


@pytest.mark.parametrize("way", range(len(SECOND_ORDER)))
def test_hessians(way: int, pair: tuple[LSTM, nn.LSTM]) -> None:
    ours, theirs = pair
    close(SECOND_ORDER[way](lambda x: loss(ours, x))(X), truth(theirs)[1])
    assert "reference" in backends()


def test_gradients_of_gradients_by_every_input() -> None:
    """grad(grad) in x, weights, bias and state at once, against the reference in float64."""
    case = make(TIME, BATCH, ragged=True, reverse=True)

    def second(dtype: torch.dtype, layer: Callable[..., Any]) -> tuple[Tensor, ...]:
        inputs = tuple(t.to(dtype) for t in case.inputs())

        def value(*given: Tensor) -> Tensor:
            x, w, r, b, h0, c0 = given
            y, (h, c) = layer(x, Weights(w, r, b), State(h0, c0), lengths=case.lengths, reverse=True)
            return y.pow(2).sum() + (h * c).sum()

        everything = tuple(range(6))
        return grad(lambda *given: sum(g.pow(2).sum() for g in grad(value, everything)(*given)), everything)(*inputs)

    for mine, wanted in zip(second(torch.float32, lstm), second(torch.float64, reference.lstm), strict=True):
        close(mine, wanted)


def test_a_hessian_times_a_vector(pair: tuple[LSTM, nn.LSTM]) -> None:
    ours, theirs = pair
    wanted = (truth(theirs)[1] * TANGENT.double()).sum((3, 4, 5))
    first = grad(lambda x: loss(ours, x))
    close(vjp(first, X)[1](TANGENT)[0], wanted)  # reverse over reverse
    close(jvp(first, (X,), (TANGENT,))[1], wanted)  # forward over reverse


def test_tangents_are_never_zero(pair: tuple[LSTM, nn.LSTM]) -> None:
    """Whatever carries the tangent, and whether or not anything requires a gradient."""
    ours, theirs = pair
    wanted = (truth(theirs)[0] * TANGENT).sum()
    for requires in (True, False):
        ours.requires_grad_(requires)
        backend_report(reset=True)
        close(jvp(lambda x: loss(ours, x), (X,), (TANGENT,))[1], wanted)
        assert set(backend_report().calls) == {TANGENTS}
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(loss(ours, forward_ad.make_dual(X, TANGENT))).tangent
        close(tangent, wanted)
    weight = ours.weight_hh_l0.detach()
    (by_weight,) = torch.autograd.grad(loss(theirs, X.double()), theirs.weight_hh_l0)
    slope = jvp(lambda w: loss_with(ours, w, X), (weight,), (weight.sin(),))[1]
    close(slope, (by_weight * weight.sin()).sum())


def loss_with(module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    y, (h, c) = functional_call(module, {"weight_hh_l0": weight}, (x,))
    return y.pow(2).sum() + (h * c).sum()


def test_the_operator_itself_has_tangents() -> None:
    """torch gives an operator without a forward rule a tangent of zeros, in silence."""
    case = make(TIME, BATCH, ragged=True)
    call = operator.call_of(case.x, case.weights(), (case.h0, case.c0), case.lengths, False, case.variant, False)
    tangent = normal(*case.x.shape)
    wanted = jvp(lambda x: call._replace(x=x).by_reference()[0], (case.x,), (tangent,))[1]
    close(jvp(lambda x: operator.lstm(*call._replace(x=x))[0], (case.x,), (tangent,))[1], wanted.double())
    with forward_ad.dual_level():
        dual = call._replace(x=forward_ad.make_dual(case.x, tangent))
        close(forward_ad.unpack_dual(operator.lstm(*dual)[0]).tangent, wanted.double())
        with pytest.raises(NotImplementedError, match="forward-mode"):
            operator.keeping(*dual)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            operator.backward(case.dy, None, None, case.dy, case.dy, True, *dual)


@pytest.mark.parametrize("as_operator", [False, True])
def test_a_tangent_that_comes_with_the_gradient(as_operator: bool, pair: tuple[LSTM, nn.LSTM]) -> None:
    """Forwards without tangents, then a backward pass whose incoming gradient has one."""
    ours, theirs = pair
    x, dy, tangent = X.clone().requires_grad_(), normal(TIME, BATCH, 14), normal(BATCH, TIME, 14).transpose(0, 1)
    x64 = X.double().requires_grad_()
    (wanted,) = torch.autograd.grad(theirs(x64)[0], x64, tangent.double())
    if as_operator:
        _, pull = vjp(lambda x: ours(x)[0], X)
        close(jvp(lambda dy: pull(dy)[0], (dy,), (tangent,))[1], wanted)
    else:
        y = ours(x)[0]
        with forward_ad.dual_level():
            (dual,) = torch.autograd.grad(y, x, forward_ad.make_dual(dy, tangent))
            close(forward_ad.unpack_dual(dual).tangent, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap_over_samples(axis: int, pair: tuple[LSTM, nn.LSTM]) -> None:
    """With shared weights the samples become rows of one call."""
    ours, theirs = pair
    samples = normal(6, TIME, BATCH, FEATURES)
    backend_report(reset=True)
    y, (h, c) = vmap(ours, in_dims=axis)(samples.movedim(0, axis))
    assert backend_report().calls == {OPERATOR: 4}  # two layers of two directions, once each
    for n, sample in enumerate(samples):
        wanted, (h64, c64) = theirs(sample.double())
        for mine, truth in ((y[n], wanted), (h[n], h64), (c[n], c64)):
            close(mine, truth)


def test_vmap_over_any_argument_of_the_function() -> None:
    case = make(TIME, BATCH)
    assert case.b is not None
    weights = [torch.stack([t, t.flip(0)]) for t in (case.w, case.r, case.b)]
    states = [normal(2, BATCH, HIDDEN), normal(2, BATCH, HIDDEN) * 2]
    both = [normal(2, TIME, BATCH, FEATURES), *weights, *states, torch.tensor([[0, 5, 3], [1, 2, 5]])]

    def layer(*given: Tensor) -> tuple[Tensor, State]:
        x, w, r, b, h, c, lengths = given
        return lstm(x, Weights(w, r, b), (h, c), lengths=lengths, reverse=True)

    for mapped in [{n} for n in range(7)] + [set(range(7)), {0, 4}, {4, 6}]:
        in_dims = tuple(0 if n in mapped else None for n in range(7))
        given = [t if n in mapped else t[0] for n, t in enumerate(both)]
        y, last = vmap(layer, in_dims=in_dims)(*given)
        for sample in range(2):
            wanted, (h, c) = layer(*(t[sample if n in mapped else 0] for n, t in enumerate(both)))
            torch.testing.assert_close((y[sample], last.h[sample], last.c[sample]), (wanted, h, c), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}, {"proj_size": 2}])
def test_transforms_of_packed_rows(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = LSTM(FEATURES, HIDDEN, 2, bidirectional=True, **options)
    packed = pack_sequence([normal(2, FEATURES), normal(5, FEATURES)], enforce_sorted=False)
    x = packed.data.to(ours.weight_ih_l0.dtype)

    def packed_loss(x: Tensor) -> Tensor:
        y, (h, c) = ours(packed._replace(data=x))
        return y.data.pow(2).sum() + (h * c[..., : h.shape[-1]]).sum()

    leaf = x.clone().requires_grad_()
    wanted = torch.autograd.grad(packed_loss(leaf), leaf)[0].double()
    close(grad(packed_loss)(x), wanted)
    close(vmap(grad(packed_loss))(torch.stack([x, x.flip(0)]))[0], wanted)
    close(jvp(packed_loss, (x,), (x.cos(),))[1], (wanted * x.double().cos()).sum())


def test_vmap_over_packed_rows() -> None:
    ours = LSTM(FEATURES, HIDDEN)
    packed = pack_sequence([normal(5, FEATURES), normal(2, FEATURES)])
    scales = torch.tensor([1.0, -0.5, 2.0])
    many = vmap(lambda s: ours(packed._replace(data=packed.data * s))[0].data)(scales)
    for n, scale in enumerate(scales):
        torch.testing.assert_close(many[n], ours(packed._replace(data=packed.data * scale))[0].data, rtol=0, atol=0)


def test_gradients_per_sample(pair: tuple[LSTM, nn.LSTM]) -> None:
    ours, theirs = pair
    parameters = {name: p.detach() for name, p in ours.named_parameters()}

    def sample_loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        y, (h, c) = functional_call(ours, parameters, (sample.unsqueeze(1),))
        return y.pow(2).sum() + (h * c).sum()

    backend_report(reset=True)
    found = vmap(grad(sample_loss), in_dims=(None, 1))(parameters, X)
    assert backends() == {"native"}
    for n in range(BATCH):
        wanted = torch.autograd.grad(loss(theirs, X[:, n : n + 1].double()), list(theirs.parameters()))
        for name, gradient in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(found[name][n].double(), gradient, rtol=1e-4, atol=1e-5)


def test_an_ensemble_with_its_gradients() -> None:
    members = [LSTM(FEATURES, HIDDEN) for _ in range(3)]
    parameters, _ = stack_module_state(members)

    def member_loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(members[0], parameters, (x,))[0].pow(2).sum()

    found = vmap(grad(member_loss), in_dims=(0, None))(parameters, X)
    for n, member in enumerate(members):
        alone = torch.autograd.grad(member(X)[0].pow(2).sum(), list(member.parameters()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(found[name][n], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"proj_size": 2}])
def test_transforms_of_what_torchs_operator_cannot(options: dict[str, Any]) -> None:
    """No torch operator in one piece under a transform: ours for projections, and the reference for float64."""
    ours = LSTM(FEATURES, HIDDEN, **options)
    x = X.to(ours.weight_ih_l0.dtype)
    backend_report(reset=True)
    found = vmap(grad(lambda row: ours(row.unsqueeze(1))[0].pow(2).sum()), in_dims=1, out_dims=1)(x)
    assert backends() == {"native" if options == {"proj_size": 2} else "reference"}
    leaf = x.clone().requires_grad_()
    close(found, torch.autograd.grad(ours(leaf)[0].pow(2).sum(), leaf)[0].double())


def test_ordinary_calls_do_not_pay_for_any_of_this() -> None:
    ours = LSTM(FEATURES, HIDDEN)
    backend_report(reset=True)
    y, _ = ours(X)
    assert backend_report().calls == {NATIVE: 1}
    assert y.grad_fn is not None and y.grad_fn.name() == "NativeLSTMBackward"


@pytest.mark.parametrize("ragged", [False, True])
def test_gradgradcheck_of_the_reference(ragged: bool) -> None:
    """The truth itself, against numerical differences in float64."""
    lengths = torch.tensor([2, 0, 3]) if ragged else None
    inputs = [t.double().requires_grad_() for t in make(3, 3, 2, 2).inputs()]

    def layer(x: Tensor, w: Tensor, r: Tensor, b: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, ...]:
        y, last = reference.lstm(x, Weights(w, r, b), State(h0, c0), lengths=lengths, reverse=ragged)
        return y, *last

    assert torch.autograd.gradcheck(layer, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(layer, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_second_order_natively_equals_the_references(bias: bool, state: bool) -> None:
    case = make(TIME, BATCH, ragged=True)
    given = [case.x, case.w, case.r] + ([case.b] if bias else []) + ([case.h0, case.c0] if state else [])
    found: list[tuple[Tensor, ...]] = []
    for layer, dtype in ((lstm, torch.float32), (reference.lstm, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in given if t is not None]
        weights = Weights(*leaves[1:4] if bias else leaves[1:3])
        y, last = layer(leaves[0], weights, State(*leaves[-2:]) if state else None, lengths=case.lengths)
        first = torch.autograd.grad(y.pow(2).sum() + last.c.sin().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves))
    for mine, wanted in zip(*found, strict=True):
        close(mine, wanted)


def test_third_order() -> None:
    case = make(3, 2, 2, 3)

    def slope(x: Tensor, layer: Callable[..., Any]) -> Tensor:
        x = x.requires_grad_()
        value = layer(x, Weights(*(t.to(x.dtype) for t in (case.w, case.r))))[0].pow(3).sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value

    close(slope(case.x.clone(), lstm) * 100, slope(case.x.double(), reference.lstm) * 100)
