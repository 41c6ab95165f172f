"""What the native kernels compute, against the reference in float64, on every instruction set of this machine."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine import native
from holdfast.engine.cells import Weights

from .single_layer import ISAS, agree, make, needs_native, run, same_bits, truth

pytestmark = needs_native


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    ("time", "batch", "features", "hidden"),
    [
        (5, 3, 4, 7),
        (3, 13, 33, 16),
        (20, 1, 5, 40),
        (4, 7, 17, 65),
        (2, 25, 64, 96),
        (70, 5, 3, 9),  # more row-steps than one chunk of the backward pass holds
    ],
)
def test_matches_the_reference(
    isa: str, time: int, batch: int, features: int, hidden: int, ragged: bool, reverse: bool
) -> None:
    native.use_isa(isa)
    case = make(time, batch, features, hidden, ragged, reverse)
    agree(case, run(case))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("hidden", [1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65])
def test_sizes_around_the_vector_width(isa: str, hidden: int) -> None:
    native.use_isa(isa)
    for features, batch in ((hidden, 2), (1, 7)):
        case = make(4, batch, features, hidden)
        agree(case, run(case))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    time=st.integers(0, 12),
    batch=st.integers(0, 14),
    features=st.integers(1, 40),
    hidden=st.integers(1, 70),
    ragged=st.booleans(),
    reverse=st.booleans(),
    threads=st.integers(1, 3),
    isa=st.sampled_from(ISAS or ["generic"]),
    seed=st.integers(0, 99),
)
def test_any_shape(
    time: int, batch: int, features: int, hidden: int, ragged: bool, reverse: bool, threads: int, isa: str, seed: int
) -> None:
    native.use_isa(isa)
    case = make(time, batch, features, hidden, ragged, reverse, seed)
    agree(case, run(case, threads))


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_left_out_counts_as_zero(isa: str) -> None:
    native.use_isa(isa)
    case = make(ragged=True)
    for left_out in ({"b": None, "h0": None, "c0": None}, {"dy": None}, {"dh": None, "dc": None}):
        less = replace(case, **left_out)
        agree(less, run(less))


@pytest.mark.parametrize("isa", ISAS)
def test_infinite_input_only_saturates(isa: str) -> None:
    """Inf times a weight is Inf, and sigmoid and tanh of that are finite: so are y and everything but dw_input."""
    native.use_isa(isa)
    case = make(3, 2, 1, 7)
    case.x[1, 0, 0] = float("inf")
    got, expected = run(case), truth(case)
    for name in ("y", "h_last", "c_last", "dx", "dh0", "dc0", "dbias"):
        assert (got[name].double() - expected[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [30.0, 100.0, 1e4, 3e38])
def test_saturation(isa: str, size: float) -> None:
    native.use_isa(isa)
    case = make(5, 4, 1, 17)  # one feature: of several, such large terms would leave only the rounding of their sum
    case.x.copy_(case.x.sign() * size)
    got = run(case)
    assert all(value.isfinite().all() for name, value in got.items() if size < 1e5 or name in ("y", "h_last", "c_last"))
    assert (got["y"].abs() <= 1).all()
    if size < 1e5:  # beyond that the weight gradients overflow, in the reference too
        agree(case, got, 1e-5)  # a live gate's argument of 20 is itself only known to 1e-6


@pytest.mark.parametrize("isa", ISAS)
def test_activations_are_accurate(isa: str) -> None:
    """One step from c' = 0 with one live gate at a time: h = sigmoid(v) * tanh(sigmoid(u) * tanh(w)), u = v = w.

    4e-7 is what three factors, each good to about 1.2e-7 absolute, give in the worst case.
    """
    native.use_isa(isa)
    v = torch.linspace(-30, 30, 6001)
    one_step = native.forward(
        v.view(1, -1, 1), Weights(torch.ones(4, 1), torch.zeros(4, 1)), None, None, None, reverse=False, keep=False
    )
    d = v.double()
    expected = torch.sigmoid(d) * torch.tanh(torch.sigmoid(d) * torch.tanh(d))
    assert (one_step[0].view(-1).double() - expected).abs().max() < 4e-7
    assert (one_step[0].abs() <= 1).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0), (0, 0)])
def test_nothing_to_do(isa: str, time: int, batch: int) -> None:
    native.use_isa(isa)
    case = make(time, batch)
    got = run(case)
    assert torch.equal(got["dw_input"], torch.zeros(28, 4)) and torch.equal(got["dbias"], torch.zeros(28))
    assert case.h0 is not None and case.dc is not None
    assert torch.equal(got["h_last"], case.h0) and torch.equal(got["dc0"], case.dc)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reverse", [False, True])
def test_all_lengths_zero(isa: str, reverse: bool) -> None:
    native.use_isa(isa)
    case = replace(make(reverse=reverse), lengths=torch.zeros(3, dtype=torch.int64))
    case.x.fill_(float("nan"))  # never read
    got = run(case)
    for name in ("y", "dx", "dw_input", "dw_recurrent", "dbias"):
        assert torch.equal(got[name], torch.zeros_like(got[name])), name
    assert case.h0 is not None and case.c0 is not None and case.dh is not None
    assert torch.equal(got["h_last"], case.h0) and torch.equal(got["c_last"], case.c0)
    assert torch.equal(got["dh0"], case.dh)


@pytest.mark.parametrize("reverse", [False, True])
def test_past_a_rows_length_nothing_is_read(reverse: bool) -> None:
    case = make(8, 6, 4, 7, ragged=True, reverse=reverse)
    assert case.lengths is not None and case.dy is not None
    clean = run(case)
    past = torch.arange(8).unsqueeze(1) >= case.lengths  # [time, batch]
    case.x[past] = float("nan")
    case.dy[past] = float("nan")
    same_bits(clean, run(case))


def test_any_strides() -> None:
    case = make(6, 5, 8, 12, ragged=True)
    expected = run(case)
    batch_first = case.x.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.randn(6, 5, 20)
    wide[:, :, 3:11] = case.x
    spread = torch.randn(6, 5, 16)
    spread[:, :, ::2] = case.x
    assert case.h0 is not None and case.dy is not None
    for x in (batch_first, wide[:, :, 3:11], spread[:, :, ::2]):
        same_bits(expected, run(replace(case, x=x)))
    other = replace(
        case,
        w=case.w.t().contiguous().t(),
        r=case.r.t().contiguous().t(),
        h0=case.h0.t().contiguous().t(),
        dy=case.dy.transpose(0, 2).contiguous().transpose(0, 2),
    )
    same_bits(expected, run(other))
    assert case.b is not None
    y, *_ = native.forward(batch_first, case.weights(), None, None, None, reverse=False, keep=False)
    assert y.transpose(0, 1).is_contiguous()
