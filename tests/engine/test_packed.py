"""Packed batches: the kernels take torch's PackedSequence as it is and give what padded rows give, bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from holdfast.engine import LSTM, native, reference
from holdfast.engine.cells import PLAIN, State, Weights
from holdfast.engine.functional import run_native

from .single_layer import ISAS, Case, make, needs_native, packed, run, same_bits

pytestmark = needs_native


def as_padded(case: Case) -> None:
    """Run the case padded and packed: y and dx must stand in their other places, everything else must be the same."""
    assert case.lengths is not None
    expected = run(case)
    expected |= {name: packed(expected[name], case.lengths) for name in ("y", "dx")}
    same_bits(expected, run(case.packed()))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [1, 7, 8, 9, 15, 16, 17, 33, 64, 65])
def test_packed_equals_padded(isa: str, reverse: bool, hidden: int) -> None:
    native.use_isa(isa)
    as_padded(make(9, 5, 4, hidden, ragged=True, reverse=reverse))
    as_padded(make(40, 30, hidden, hidden, ragged=True, reverse=reverse))  # several chunks of the backward pass


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lengths", [[5], [1], [4, 4, 4], [1, 1, 1], [3, 0, 5], [0, 1], [5, 3, 3, 2, 2, 1]])
def test_special_lengths(isa: str, lengths: list[int]) -> None:
    native.use_isa(isa)
    for reverse in (False, True):
        case = make(max(lengths), len(lengths), 4, 7, reverse=reverse)
        as_padded(replace(case, lengths=torch.tensor(lengths)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=14),
    features=st.integers(1, 40),
    hidden=st.integers(1, 70),
    reverse=st.booleans(),
    isa=st.sampled_from(ISAS or ["generic"]),
)
def test_any_packed_shape(lengths: list[int], features: int, hidden: int, reverse: bool, isa: str) -> None:
    native.use_isa(isa)
    case = make(max(lengths), len(lengths), features, hidden, reverse=reverse)
    as_padded(replace(case, lengths=torch.tensor(lengths)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(30, 13, 20, 64), (40, 2, 30, 160), (50, 1, 16, 256)])  # by rows and by units
@pytest.mark.parametrize("reverse", [False, True])
def test_same_bits_on_any_number_of_threads(isa: str, shape: tuple[int, int, int, int], reverse: bool) -> None:
    native.use_isa(isa)
    case = make(*shape, ragged=True, reverse=reverse)
    as_padded(case)
    alone = run(case.packed(), 1)
    for threads in (2, 3, 4):
        same_bits(alone, run(case.packed(), threads))


@pytest.mark.parametrize("isa", ISAS)
def test_poison_stays_in_its_row(isa: str) -> None:
    native.use_isa(isa)
    case = replace(make(6, 4, 4, 33), lengths=torch.tensor([2, 6, 5, 3]))
    clean = run(case.packed())
    case.x[1, 2, 3] = float("nan")
    spoilt = run(case.packed())
    row_of = packed(torch.arange(4).expand(6, 4), case.lengths)  # which row each row-step belongs to
    for name in ("y", "dx"):
        assert torch.equal(clean[name][row_of != 2], spoilt[name][row_of != 2]), name
        assert spoilt[name][row_of == 2].isnan().any(), name
    others = torch.tensor([0, 1, 3])
    for name in ("h_last", "c_last", "dh0", "dc0"):
        assert torch.equal(clean[name][others], spoilt[name][others]), name


def test_any_strides() -> None:
    case = make(6, 5, 8, 12, ragged=True).packed()
    expected = run(case)
    assert case.dy is not None
    wide = torch.randn(len(case.x), 20)
    wide[:, 3:11] = case.x
    for x in (wide[:, 3:11], case.x.t().contiguous().t()):
        same_bits(expected, run(replace(case, x=x, dy=case.dy.t().contiguous().t())))


@pytest.mark.parametrize("reverse", [False, True])
def test_double_backward_is_the_references(reverse: bool) -> None:
    case = make(5, 4, 4, 7, ragged=True, reverse=reverse)
    assert case.lengths is not None
    found: list[tuple[Tensor, ...]] = []
    for layer in (run_native, lambda *a: reference.lstm(*a[:3], lengths=a[3], reverse=a[4])):
        x, w, r, b, h0, c0 = (t.clone().requires_grad_() for t in case.inputs())
        inputs = x if layer is not run_native else packed(x, case.lengths)
        y, last = layer(inputs, Weights(w, r, b), State(h0, c0), case.lengths, reverse, PLAIN)
        loss = y.pow(2).sum() + (last.h * last.c).sum()  # sums over the same row-steps, whatever their order
        first = torch.autograd.grad(loss, (x, w, h0), create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, w, r, b, h0, c0)))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)
        assert wanted.abs().sum() > 0


def twins(*sizes: int, **options: Any) -> tuple[LSTM, nn.LSTM]:
    torch.manual_seed(0)
    theirs, ours = nn.LSTM(*sizes, **options), LSTM(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("lengths", [[1], [6], [4, 4, 4], [1, 1], [9, 7, 7, 2, 1]])
@pytest.mark.parametrize("hidden", [1, 16, 33])
def test_a_deep_stack_is_torchs(lengths: list[int], hidden: int) -> None:
    """Values and gradients through layers, directions and dropout: for the same seed even the masks are torch's."""
    pair = twins(4, hidden, 3, bidirectional=True, dropout=0.4)
    rows = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in lengths]
    found: list[tuple[Tensor, ...]] = []
    for module in pair:
        given = pack_sequence(rows)
        given.data.requires_grad_()
        torch.manual_seed(1)
        y, (h, c) = module(given)
        weight = torch.linspace(-1, 1, y.data.numel()).view_as(y.data)
        loss = (y.data * weight).sum() + (h * c).sum()
        found.append((y.data, h, c, *torch.autograd.grad(loss, [given.data, *module.parameters()])))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=2e-5)


def test_double_backward_through_a_packed_sequence() -> None:
    found: list[Tensor] = []
    for module in twins(4, 7, 2, bidirectional=True):
        x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y, _ = module(pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False))
        (first,) = torch.autograd.grad(y.data.pow(2).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), module.weight_hh_l0)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    assert found[0].abs().sum() > 0


def test_nothing_is_copied_on_the_way() -> None:
    """Packed rows go into the kernels as they are: what autograd holds for the backward pass is the caller's tensor."""
    ours, _ = twins(4, 7)
    given = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    given.data.requires_grad_()
    y, _ = ours(given)
    assert y.data.grad_fn is not None and y.data.grad_fn.name() == "NativeLSTMBackward"
    assert y.data.grad_fn.saved_tensors[0].data_ptr() == given.data.data_ptr()


def test_batch_sizes_that_rise_are_refused() -> None:
    ours, _ = twins(4, 7)
    with pytest.raises(RuntimeError, match="negative"):
        ours(PackedSequence(torch.randn(6, 4), torch.tensor([3, 1, 2])))
    with pytest.raises(ValueError, match="row-steps"):
        ours(PackedSequence(torch.randn(5, 4), torch.tensor([3, 2, 1])))
