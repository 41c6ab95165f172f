"""The native kernels against the reference in float64, on every instruction set that this machine has.

Tolerances: a float32 sum of n terms is wrong by about sqrt(n) * 6e-8 relative to the terms' size, and the LSTM's own
dynamics carry errors on. With weights drawn as torch.nn.LSTM draws them (uniform within 1 / sqrt(hidden)) they do not
grow, so 2e-6 of the largest element leaves a factor of about ten for the sizes below. A wrong formula is wrong by 1e-3.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast.engine import native
from holdfast.engine.reference import State, Weights
from holdfast.engine.reference import lstm as reference_lstm

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
ISAS = native.isas() if native.available() else []
TOLERANCE = 2e-6


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    isa, threads = native.isa(), torch.get_num_threads()
    yield
    native.use_isa(isa)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """Everything that goes into one layer, and the gradients that come back into its outputs."""

    x: Tensor  # [time, batch, features]
    w: Tensor
    r: Tensor
    b: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    lengths: Tensor | None
    reverse: bool
    dy: Tensor | None  # [time, batch, hidden]
    dh: Tensor | None
    dc: Tensor | None

    def inputs(self) -> list[Tensor]:
        return [t for t in (self.x, self.w, self.r, self.b, self.h0, self.c0) if t is not None]

    def rows(self, chosen: list[int]) -> "Case":
        """The same layer for some rows of the batch only."""

        def of(t: Tensor | None, axis: int) -> Tensor | None:
            return None if t is None else t.index_select(axis, torch.tensor(chosen))

        x = self.x.index_select(1, torch.tensor(chosen))
        h0, c0, dh, dc = (of(t, 0) for t in (self.h0, self.c0, self.dh, self.dc))
        return replace(self, x=x, h0=h0, c0=c0, lengths=of(self.lengths, 0), dy=of(self.dy, 1), dh=dh, dc=dc)


def make(
    time: int = 5,
    batch: int = 3,
    features: int = 4,
    hidden: int = 7,
    ragged: bool = False,
    reverse: bool = False,
    seed: int = 0,
) -> Case:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    def weight(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=rng) * 2 - 1) / hidden**0.5

    lengths = torch.randint(0, time + 1, (batch,), generator=rng) if ragged else None
    if lengths is not None and batch > 1:
        lengths[0], lengths[1] = 0, time
    return Case(
        normal(time, batch, features),
        weight(4 * hidden, features),
        weight(4 * hidden, hidden),
        weight(4 * hidden),
        normal(batch, hidden),
        normal(batch, hidden),
        lengths,
        reverse,
        normal(time, batch, hidden),
        normal(batch, hidden),
        normal(batch, hidden),
    )


NAMES = ("y", "h_last", "c_last", "dx", "dw_input", "dw_recurrent", "dbias", "dh0", "dc0")


def run(case: Case, threads: int = 1) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    c = case
    y, h, cell, kept = native.forward(c.x, c.w, c.r, c.b, c.h0, c.c0, c.lengths, reverse=c.reverse, keep=True)
    grads = native.backward(
        c.dy, c.dh, c.dc, c.x, c.w, c.r, c.h0, c.c0, c.lengths, y, kept, reverse=c.reverse, need_x=True
    )
    return {name: value for name, value in zip(NAMES, (y, h, cell, *grads), strict=True) if value is not None}


def truth(case: Case) -> dict[str, Tensor]:
    """The reference in float64, gradients by autograd. A missing bias or state is a zero one."""
    time, batch, _ = case.x.shape
    hidden = case.r.shape[1]

    def leaf(t: Tensor | None, *shape: int) -> Tensor:
        return (torch.zeros(shape) if t is None else t).double().requires_grad_()

    leaves = [leaf(case.x), leaf(case.w), leaf(case.r), leaf(case.b, 4 * hidden), leaf(case.h0, batch, hidden)]
    leaves.append(leaf(case.c0, batch, hidden))
    x, w, r, b, h0, c0 = leaves
    y, last = reference_lstm(x, Weights(w, r, b), State(h0, c0), lengths=case.lengths, reverse=case.reverse)
    shapes = ((time, batch, hidden), (batch, hidden), (batch, hidden))
    outer = [
        (torch.zeros(shape) if g is None else g).double()
        for g, shape in zip((case.dy, case.dh, case.dc), shapes, strict=True)
    ]
    outs = [(o, g) for o, g in zip((y, *last), outer, strict=True) if o.requires_grad]
    grads = torch.autograd.grad([o for o, _ in outs], leaves, [g for _, g in outs], allow_unused=True)
    found = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]
    return dict(zip(NAMES, (y.detach(), last.h.detach(), last.c.detach(), *found), strict=True))


def agree(case: Case, got: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    for name, expected in truth(case).items():
        assert got[name].shape == expected.shape, name
        if expected.numel():
            error = (got[name].double() - expected).abs().max().item() / max(1.0, expected.abs().max().item())
            assert error <= tolerance, f"{name}: off by {error:.2e} of the largest element"


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor], names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        assert torch.equal(one[name], other[name]), f"{name}: {(one[name] - other[name]).abs().max()}"


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


# (time, batch, features, hidden) large enough to be shared between threads: by rows; by units (few rows, wide state).
SHARED = [(30, 13, 20, 64), (40, 2, 30, 160), (50, 1, 16, 256), (12, 5, 200, 200)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHARED)
def test_same_bits_on_any_number_of_threads(isa: str, shape: tuple[int, int, int, int]) -> None:
    native.use_isa(isa)
    for ragged in (False, True):
        case = make(*shape, ragged=ragged)
        alone = run(case, 1)
        agree(case, alone)
        for threads in (2, 3, 4):
            same_bits(alone, run(case, threads))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ragged", [False, True])
def test_same_bits_alone_and_in_a_batch(isa: str, ragged: bool) -> None:
    native.use_isa(isa)
    case = make(9, 17, 10, 33, ragged=ragged)
    together = run(case)
    for row in range(17):
        alone = run(case.rows([row]))
        for name in ("y", "dx"):
            assert torch.equal(together[name][:, row], alone[name][:, 0]), name
        for name in ("h_last", "c_last", "dh0", "dc0"):
            assert torch.equal(together[name][row], alone[name][0]), name


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_with_and_without_keeping(isa: str) -> None:
    native.use_isa(isa)
    case = make(9, 5, 10, 33, ragged=True)
    inputs = (case.x, case.w, case.r, case.b, case.h0, case.c0, case.lengths)
    *kept, _ = native.forward(*inputs, reverse=False, keep=True)
    *not_kept, empty = native.forward(*inputs, reverse=False, keep=False)
    assert empty.numel() == 0
    assert all(torch.equal(one, other) for one, other in zip(kept, not_kept, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("hidden", [7, 32])
def test_poison_stays_in_its_row(isa: str, poison: float, hidden: int) -> None:
    native.use_isa(isa)
    case = make(6, 8, 4, hidden)
    clean = run(case)
    case.x[2, 3, 1] = poison
    spoilt = run(case)
    others = [row for row in range(8) if row != 3]
    for name, axis in (("y", 1), ("h_last", 0), ("c_last", 0), ("dx", 1), ("dh0", 0), ("dc0", 0)):
        rows = torch.tensor(others)
        assert torch.equal(clean[name].index_select(axis, rows), spoilt[name].index_select(axis, rows)), name
    assert torch.equal(clean["y"][:2], spoilt["y"][:2])  # and in its future
    if poison != poison:
        assert spoilt["y"][2:, 3].isnan().all()
        assert spoilt["dx"][:3, 3].isnan().all()


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
        v.view(1, -1, 1), torch.ones(4, 1), torch.zeros(4, 1), None, None, None, None, reverse=False, keep=False
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
    y, *_ = native.forward(batch_first, case.w, case.r, case.b, None, None, None, reverse=False, keep=False)
    assert y.transpose(0, 1).is_contiguous()


def test_backward_twice_gives_the_same() -> None:
    c = make(9, 4, 5, 20)
    y, _, _, kept = native.forward(c.x, c.w, c.r, c.b, c.h0, c.c0, None, reverse=False, keep=True)
    one, two = (
        native.backward(c.dy, c.dh, c.dc, c.x, c.w, c.r, c.h0, c.c0, None, y, kept, reverse=False, need_x=False)
        for _ in range(2)
    )
    assert one[0] is None and two[0] is None
    assert all(torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True) if a is not None and b is not None)


def test_kept_memory_is_used_again_only_once_nobody_holds_it() -> None:
    c = make(100, 16, 4, 64)

    def kept() -> Tensor:
        return native.forward(c.x, c.w, c.r, c.b, None, None, None, reverse=False, keep=True)[3]

    one, two = kept(), kept()
    assert one.data_ptr() != two.data_ptr()
    address, end = one.data_ptr(), one[-1:]
    del one
    assert kept().data_ptr() != address  # `end` still lives there
    del end
    assert kept().data_ptr() == address


def test_two_python_threads_at_once() -> None:
    torch.set_num_threads(2)
    cases = [make(20, 12, 30, 64, seed=seed, ragged=bool(seed)) for seed in range(2)]
    expected = [run(case, 2) for case in cases]
    wrong: list[str] = []

    def work(case: Case, answer: dict[str, Tensor]) -> None:
        for _ in range(20):
            got = run(case, 2)
            wrong.extend(name for name in NAMES if not torch.equal(got[name], answer[name]))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(cases, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kept_of_another_instruction_set_is_refused() -> None:
    if len(ISAS) < 2:
        pytest.skip("this machine has one instruction set only")
    c = make(5, 3, 4, 16)  # 16 units: the sizes agree, so only the header tells
    native.use_isa(ISAS[0])
    y, _, _, kept = native.forward(c.x, c.w, c.r, c.b, None, None, None, reverse=False, keep=True)
    native.use_isa(ISAS[-1])
    with pytest.raises(ValueError, match="kept"):
        native.backward(c.dy, None, None, c.x, c.w, c.r, None, None, None, y, kept, reverse=False, need_x=False)


def test_an_unknown_instruction_set_in_the_environment_is_named() -> None:
    code = "from holdfast.engine import native; print(native.available(), native.why_not())"
    environment = {**os.environ, "HOLDFAST_ISA": "avx9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("False") and "HOLDFAST_ISA=avx9" in done.stdout


def test_what_does_not_fit_is_refused() -> None:
    c = make()

    def call(
        x: Tensor = c.x, w: Tensor = c.w, r: Tensor = c.r, h0: Tensor | None = c.h0, lengths: Tensor | None = None
    ) -> None:
        native.forward(x, w, r, c.b, h0, c.c0, lengths, reverse=False, keep=False)

    call()
    with pytest.raises(ValueError, match=r"w_input .*\[28, 5\].*\[28, 4\]"):
        call(w=torch.zeros(28, 5))
    with pytest.raises(ValueError, match=r"x came as .*float64"):
        call(x=c.x.double())
    with pytest.raises(ValueError, match="axes"):
        call(x=c.x[0])
    with pytest.raises(ValueError, match="w_recurrent"):
        call(r=torch.zeros(27, 7))
    with pytest.raises(ValueError, match="h0"):
        call(h0=torch.zeros(2, 7))
    with pytest.raises(ValueError, match="lengths"):
        call(lengths=torch.zeros(3))
    for bad in (-1, 6, -1000, 1 << 40):
        lengths = torch.tensor([0, bad, 5])
        with pytest.raises(ValueError, match="length"):
            call(lengths=lengths)
        with pytest.raises(ValueError, match="length"):
            native.forward(c.x, c.w, c.r, c.b, c.h0, c.c0, lengths, reverse=False, keep=True)
    with pytest.raises(ValueError, match="avx9"):
        native.use_isa("avx9")
