"""holdfast.LSTM as a drop-in: whatever torch.nn.LSTM takes and returns, on every backend that can be chosen."""

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from holdfast.engine import LSTM, accelerate, backend_report, restore

BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 7
# Two float32 LSTMs that sum in another order differ by a few rounding errors per step (5 steps, 3 layers).
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 2e-6}
SHAPES = list(itertools.product([1, 3], [False, True], [False, True], [False, True]))


def twins(*args: Any, seed: int = 0, **options: Any) -> tuple[LSTM, nn.LSTM]:
    torch.manual_seed(seed)
    theirs = nn.LSTM(*args, **options)
    ours = LSTM(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def states(layers: int, bidirectional: bool, *, shown: int = HIDDEN) -> tuple[Tensor, Tensor]:
    places = layers * (2 if bidirectional else 1)
    return made(places, BATCH, shown), made(places, BATCH, HIDDEN) * 2


def tensors_of(result: Any) -> list[Tensor]:
    y, (h, c) = result
    return [y.data if isinstance(y, PackedSequence) else y, h, c]


def compare(ours: nn.Module, theirs: nn.Module, x: Any, hx: Any = None) -> None:
    """Outputs, and the gradients of everything, for a loss that weighs every output differently."""
    for tensor in (x.data if isinstance(x, PackedSequence) else x, *(hx or ())):
        tensor.requires_grad_(tensor.is_floating_point())
    inputs = [x.data if isinstance(x, PackedSequence) else x, *(hx or ())]
    found = []
    for module in (ours, theirs):
        outputs = tensors_of(module(x, hx))
        loss = sum((out * made(*out.shape)).sum() for out in outputs)
        found.append((outputs, torch.autograd.grad(loss, [*inputs, *module.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], **CLOSE)
    for mine, wanted in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=2e-5)


@pytest.mark.tiny
@pytest.mark.parametrize(("layers", "bias", "batch_first", "bidirectional"), SHAPES)
def test_batches(layers: int, bias: bool, batch_first: bool, bidirectional: bool) -> None:
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    ours, theirs = twins(FEATURES, HIDDEN, layers, **options)
    x = made(BATCH, TIME, FEATURES) if batch_first else made(TIME, BATCH, FEATURES)
    compare(ours, theirs, x.clone())
    compare(ours, theirs, x.clone(), states(layers, bidirectional))


@pytest.mark.parametrize(("layers", "bias", "batch_first", "bidirectional"), SHAPES)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed(layers: int, bias: bool, batch_first: bool, bidirectional: bool, enforce_sorted: bool) -> None:
    ours, theirs = twins(FEATURES, HIDDEN, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    rows = [made(length, FEATURES) for length in ([5, 3, 1] if enforce_sorted else [1, 5, 3])]
    packed = pack_sequence(rows, enforce_sorted=enforce_sorted)
    compare(ours, theirs, packed, states(layers, bidirectional))
    mine, wanted = ours(packed)[0], theirs(packed)[0]
    for part in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        torch.testing.assert_close(getattr(mine, part), getattr(wanted, part))
    torch.testing.assert_close(pad_packed_sequence(mine), pad_packed_sequence(wanted), **CLOSE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(batch_first: bool, bidirectional: bool) -> None:
    ours, theirs = twins(FEATURES, HIDDEN, 2, batch_first=batch_first, bidirectional=bidirectional)
    hx = states(2, bidirectional)
    compare(ours, theirs, made(TIME, FEATURES), (hx[0][:, 0].clone(), hx[1][:, 0].clone()))
    assert ours(made(TIME, FEATURES))[0].shape == theirs(made(TIME, FEATURES))[0].shape


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")  # torch's own word on its slow path
@pytest.mark.parametrize("bidirectional", [False, True])
def test_projection(bidirectional: bool) -> None:
    ours, theirs = twins(FEATURES, HIDDEN, 2, proj_size=2, bidirectional=bidirectional)
    compare(ours, theirs, made(TIME, BATCH, FEATURES), states(2, bidirectional, shown=2))
    packed = pack_padded_sequence(made(TIME, BATCH, FEATURES), torch.tensor([5, 3, 1]))
    compare(ours, theirs, packed, states(2, bidirectional, shown=2))


def test_other_dtypes() -> None:
    """For bfloat16 and autocast see test_bfloat16.py."""
    ours, theirs = twins(FEATURES, HIDDEN, 2, dtype=torch.float64)
    x = made(TIME, BATCH, FEATURES).double()
    torch.testing.assert_close(tensors_of(ours(x)), tensors_of(theirs(x)))
    assert ours(x)[0].dtype == torch.float64


def test_dropout_between_layers() -> None:
    ours, theirs = twins(FEATURES, HIDDEN, 3, dropout=0.4)
    x = made(TIME, BATCH, FEATURES)
    torch.manual_seed(1)
    mine = ours(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(mine, theirs(x)[0], **CLOSE)
    torch.manual_seed(2)
    assert not torch.allclose(mine, ours(x)[0])
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0], **CLOSE)


def test_strided_inputs() -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    wide = made(FEATURES, 2 * TIME, BATCH + 1).permute(1, 2, 0)[::2, 1:]  # [time, batch, features], nothing adjacent
    torch.testing.assert_close(tensors_of(ours(wide)), tensors_of(theirs(wide)), **CLOSE)
    expanded = made(1, BATCH, FEATURES).expand(TIME, -1, -1)
    torch.testing.assert_close(tensors_of(ours(expanded)), tensors_of(theirs(expanded)), **CLOSE)


def test_parameters_and_state_dict_are_torchs() -> None:
    ours, theirs = twins(FEATURES, HIDDEN, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, nn.LSTM)
    torch.manual_seed(5)
    ours.reset_parameters()
    torch.manual_seed(5)
    theirs.reset_parameters()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=0, atol=0)


def test_deepcopy_saving_and_float64_round_trip() -> None:
    ours, _ = twins(FEATURES, HIDDEN)
    x = made(TIME, BATCH, FEATURES)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    again = LSTM(FEATURES, HIDDEN)
    again.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(ours), again, copy.deepcopy(ours).double().float()):
        torch.testing.assert_close(other(x)[0], ours(x)[0], rtol=0, atol=0)


def test_copies_do_not_share_weights() -> None:
    ours, _ = twins(FEATURES, HIDDEN)
    other = copy.deepcopy(ours)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert ours.weight_hh_l0.abs().sum() > 0


def test_no_grad_and_frozen_parts() -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    x = made(TIME, BATCH, FEATURES)
    with torch.no_grad():
        assert not ours(x)[0].requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(ours(x)[0], theirs(x)[0].detach(), **CLOSE)
    ours.requires_grad_(False)
    assert not ours(x)[0].requires_grad
    ours.weight_ih_l0.requires_grad_(True)
    ours(x)[0].sum().backward()
    assert ours.weight_ih_l0.grad is not None and ours.weight_hh_l0.grad is None


def test_backward_twice_through_one_graph() -> None:
    ours, _ = twins(FEATURES, HIDDEN)
    y, _ = ours(made(TIME, BATCH, FEATURES))
    first = torch.autograd.grad(y.sum(), ours.weight_hh_l0, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(y.sum(), ours.weight_hh_l0), rtol=0, atol=0)


def test_gradient_of_the_state_alone() -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    x = made(TIME, BATCH, FEATURES)
    grads = [torch.autograd.grad(m(x)[1][1].sum(), m.weight_ih_l0)[0] for m in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_double_backward() -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    found = []
    for module in (ours, theirs):
        x = made(TIME, BATCH, FEATURES).requires_grad_()
        (gradient,) = torch.autograd.grad(module(x)[0].pow(2).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.pow(2).sum(), module.weight_hh_l0)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    assert found[0].abs().sum() > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own jvp uses it
def test_transforms_are_never_silently_zero() -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    x, tangent = made(TIME, BATCH, FEATURES), made(TIME + 1, BATCH, FEATURES)[1:]
    _, slope = torch.func.jvp(lambda x: ours(x)[0].sum(), (x,), (tangent,))
    (gradient,) = torch.autograd.grad(theirs(x.requires_grad_())[0].sum(), x)
    torch.testing.assert_close(slope, (gradient * tangent).sum(), rtol=1e-3, atol=1e-4)
    per_row = torch.func.vmap(lambda row: ours(row)[0], in_dims=1, out_dims=1)(x.detach())
    torch.testing.assert_close(per_row, theirs(x)[0], **CLOSE)


ERRORS: list[tuple[Any, Any]] = [
    (made(TIME, BATCH, FEATURES + 1), None),
    (made(2, TIME, BATCH, FEATURES), None),
    (made(FEATURES), None),
    (made(0, BATCH, FEATURES), None),
    (made(TIME, BATCH, FEATURES).double(), None),
    (made(TIME, BATCH, FEATURES).long(), None),
    (made(TIME, BATCH, FEATURES), (made(1, BATCH + 1, HIDDEN), made(1, BATCH, HIDDEN))),
    (made(TIME, BATCH, FEATURES), (made(1, BATCH, HIDDEN), made(1, BATCH, HIDDEN + 1))),
    (made(TIME, BATCH, FEATURES), (made(2, BATCH, HIDDEN), made(2, BATCH, HIDDEN))),
    (made(TIME, BATCH, FEATURES), (made(BATCH, HIDDEN), made(BATCH, HIDDEN))),
    (made(TIME, FEATURES), (made(1, 1, HIDDEN), made(1, 1, HIDDEN))),
]


@pytest.mark.parametrize(("x", "hx"), ERRORS)
def test_errors_are_of_torchs_type(x: Any, hx: Any) -> None:
    ours, theirs = twins(FEATURES, HIDDEN)
    with pytest.raises((RuntimeError, ValueError)) as wanted:
        theirs(x, hx)
    with pytest.raises(type(wanted.value)):
        ours(x, hx)


def test_packed_rows_of_a_wrong_width_are_refused() -> None:
    for layer in (LSTM(FEATURES, HIDDEN), LSTM(FEATURES, HIDDEN, proj_size=2), LSTM(FEATURES, HIDDEN).double()):
        wide = made(3, FEATURES + 1).to(layer.weight_ih_l0.dtype)
        with pytest.raises(RuntimeError, match="5"):  # torch 2.13 computes something instead
            layer(pack_sequence([wide]))


def test_accelerate_and_restore() -> None:
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"a": nn.LSTM(4, 7), "b": nn.Sequential(nn.Linear(2, 2), nn.LSTM(7, 3)), "own": Own(2, 2)})
    inner, weight = model["a"], model["a"].weight_ih_l0
    x = made(TIME, BATCH, FEATURES)
    wanted = inner(x)[0]
    assert accelerate(model) is model
    assert type(model["a"]) is LSTM and type(model["b"][1]) is LSTM and type(model["own"]) is Own
    assert model["a"] is inner and inner.weight_ih_l0 is weight
    torch.testing.assert_close(inner(x)[0], wanted, **CLOSE)
    restore(model)
    assert type(model["a"]) is nn.LSTM and type(model["b"][1]) is nn.LSTM
    assert type(accelerate(nn.LSTM(2, 3))) is LSTM


def test_the_report_says_what_ran() -> None:
    ours, _ = twins(FEATURES, HIDDEN, 2)
    backend_report(reset=True)
    ours(made(TIME, BATCH, FEATURES))
    LSTM(FEATURES, HIDDEN).double()(made(TIME, BATCH, FEATURES).double())
    torch.func.jvp(lambda x: ours(x)[0], (made(TIME, BATCH, FEATURES),), (made(TIME, BATCH, FEATURES),))
    calls = {choice.backend: (count, choice.reason) for choice, count in backend_report().calls.items()}
    assert calls["reference"][0] == 2 and "forward-mode" in calls["reference"][1]
    assert calls["torch"] == (1, "the input is float64")
    assert "calls" in str(backend_report(reset=True)) and not backend_report().calls
