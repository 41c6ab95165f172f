"""The cells that torch lacks: native kernels against the reference in float64, and the promises of the plain cell."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast.engine import native
from holdfast.engine.cells import State, Variant, Weights, Zoneout, zoneout_masks

from .single_layer import ISAS, Case, agree_as_well_as_torch, make, needs_native, packed, run, same_bits, usual_rounding

pytestmark = needs_native

CELLS = (
    "peephole",
    "coupled",
    "peephole coupled",
    "mask",
    "zoneout",
    "zoneout expected",
    "peephole zoneout",
    "everything",
    "exponential",
    "projection",
    "projection mask peephole",
    "projection exponential",
    "projection zoneout",
    "ready",
    "ready peephole projection",
    "normalised",
    "normalised mask projection",
)


def variant_of(case: Case, name: str, seed: int = 5) -> Case:
    """The case with another cell: the words of its name say what is added."""
    rng = torch.Generator().manual_seed(seed)
    hidden, batch = case.r.shape[1], case.x.shape[1]
    words = set(name.split())
    if "everything" in words:
        words |= {"peephole", "coupled", "mask", "zoneout"}
    width = max(1, hidden * 2 // 3) if "projection" in words else hidden

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng)

    if "projection" in words:
        p = normal(width, hidden) / hidden**0.5
        r, h0 = normal(4 * hidden, width) / hidden**0.5, normal(batch, width)
        dy, dh = normal(*case.x.shape[:2], width), normal(batch, width)
        case = replace(case, projection=p, r=r, h0=h0, dy=dy, dh=dh)
    if "ready" in words:
        case = replace(case, w=None, x=normal(*case.x.shape[:2], 4 * hidden))
    if "normalised" in words:
        gains = (1 + normal(size) / 4 for size in (4 * hidden, 4 * hidden, hidden))
        case = replace(case, norms=(*gains, normal(hidden) / 4))
    if "peephole" in words:
        case = replace(case, peephole=normal(3 * hidden))
    if "exponential" in words:  # n is positive wherever there is anything in the memory; an empty row starts from zero
        memory = torch.stack([normal(batch, hidden), normal(batch, hidden).exp(), normal(batch, hidden)])
        memory[:, -1:] = 0
        dc = normal(3, batch, hidden)
        dc[2] = 0
        case = replace(case, c0=memory, dc=dc)
    mask = (torch.rand((batch, width), generator=rng) < 0.7).float() / 0.7 if "mask" in words else None
    zoneout = Zoneout()
    if "zoneout" in words:
        zoneout = Zoneout(0.0 if "projection" in words else 0.2, 0.4, None if "expected" in words else (7 << 40) + 3)
    return replace(case, variant=Variant("coupled" in words, "exponential" in words, mask, zoneout))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_agrees_with_the_reference(isa: str, name: str, reverse: bool) -> None:
    native.use_isa(isa)
    for size in ((5, 3, 4, 7), (9, 8, 17, 33), (1, 2, 3, 5), (6, 1, 5, 48)):
        case = variant_of(make(*size, ragged=True, reverse=reverse), name)
        agree_as_well_as_torch(case, run(case))


@given(
    st.sampled_from(CELLS),
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.sampled_from(ISAS),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_agrees_over_shapes(
    name: str, time: int, batch: int, features: int, hidden: int, ragged: bool, reverse: bool, isa: str, seed: int
) -> None:
    native.use_isa(isa)
    case = variant_of(make(time, batch, features, hidden, ragged, reverse, seed), name, seed)
    assume(usual_rounding(case) < 1e-5)  # a norm over few units of nearly the same value is as good as random
    agree_as_well_as_torch(case, run(case))


@pytest.mark.parametrize("isa", ISAS)
def test_a_projection_may_be_wider_than_its_cell(isa: str) -> None:
    native.use_isa(isa)
    for hidden, width in ((16, 17), (7, 90)):
        case = variant_of(make(9, 5, 4, hidden), "normalised")
        mask = (torch.rand(5, width) < 0.7).float() / 0.7
        wide = {"projection": (width, hidden), "r": (4 * hidden, width), "h0": (5, width), "dh": (5, width)}
        made = {name: torch.randn(shape) / 4 for name, shape in wide.items()}
        case = replace(case, **made, dy=torch.randn(9, 5, width), variant=case.variant._replace(h_mask=mask))
        agree_as_well_as_torch(case, run(case))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CELLS)
def test_several_chunks_and_threads_give_the_same_bits(isa: str, name: str) -> None:
    """700 row-steps fill more than one chunk of the backward pass; the wide layer shares units between threads."""
    native.use_isa(isa)
    for size in ((70, 10, 5, 37), (40, 2, 24, 160)):
        case = variant_of(make(*size, ragged=True), name)
        one = run(case, threads=1)
        agree_as_well_as_torch(case, one)
        for threads in (2, 3):
            same_bits(one, run(case, threads=threads))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in CELLS if "zoneout" not in name and name != "everything"])
def test_a_row_alone_has_the_same_bits(isa: str, name: str) -> None:
    """But for zoneout, which draws by the row's number."""
    native.use_isa(isa)
    case = variant_of(make(7, 5, 10, 33, ragged=True), name)
    together = run(case)
    for row in range(5):
        alone = run(case.rows([row]))
        same_bits({"y": together["y"][:, row]}, {"y": alone["y"][:, 0]}, ("y",))
        same_bits({"dx": together["dx"][:, row]}, {"dx": alone["dx"][:, 0]}, ("dx",))
        for name in ("h_last", "dh0"):
            assert torch.equal(together[name][row], alone[name][0]), name
        for name in ("c_last", "dc0"):
            assert torch.equal(together[name][..., row, :], alone[name][..., 0, :]), name


@pytest.mark.parametrize("name", CELLS)
def test_packed_has_the_same_bits(name: str) -> None:
    case = variant_of(make(8, 6, 5, 19, ragged=True), name)
    padded, lying = run(case), run(case.packed())
    for name in ("y", "dx"):
        assert torch.equal(packed(padded[name], case.lengths), lying[name])
    same_bits(padded, lying, ("h_last", "c_last", "dh0", "dw_input", "dw_recurrent", "dbias", "dpeephole"))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0), (0, 0)])
def test_nothing_to_do(name: str, time: int, batch: int) -> None:
    case = variant_of(make(time, batch), name)
    found = run(case)
    assert all((found[key] == 0).all() for key in found if key.startswith("dw") or key in ("dprojection", "dpeephole"))
    if time == 0 and case.variant.h_mask is None:
        assert case.dh is not None
        assert torch.equal(found["dh0"], case.dh)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CELLS)
def test_nan_stays_in_its_row(isa: str, name: str) -> None:
    native.use_isa(isa)
    case = variant_of(make(6, 4, 5, 19), name)
    clean = run(case)
    case.x[3, 1] = float("nan")
    case.x[2, 2] = float("inf")
    dirty = run(case)
    others = [0, 3]
    same_bits({"y": clean["y"][:, others]}, {"y": dirty["y"][:, others]}, ("y",))
    same_bits({"dx": clean["dx"][:, others]}, {"dx": dirty["dx"][:, others]}, ("dx",))
    assert dirty["y"][3, 1].isnan().any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CELLS)
def test_saturated_gates_stay_finite(isa: str, name: str) -> None:
    native.use_isa(isa)
    for size in (1e2, 1e4, 1e30):
        case = variant_of(make(6, 4, 5, 19), name)
        case = replace(case, x=case.x * size)
        assert all(value.isfinite().all() for key, value in run(case).items() if key in ("y", "h_last", "dx", "dh0"))


def test_zoneout_is_drawn_afresh_for_each_step_and_seed() -> None:
    c = torch.zeros(40, 500)
    drawn = [zoneout_masks(Zoneout(0.3, 0.1, seed), step, c) for seed in (0, 1) for step in (0, 1)]
    for h, kept_c in drawn:
        assert abs(h.mean() - 0.3) < 0.02 and abs(kept_c.mean() - 0.1) < 0.02  # four deviations of 20,000 draws
        assert abs((h * kept_c).mean() - 0.03) < 0.006  # independent of each other
    for other in drawn[1:]:
        assert abs((drawn[0][0] * other[0]).mean() - 0.09) < 0.01
    assert torch.equal(drawn[0][0], zoneout_masks(Zoneout(0.3, 0.1, 0), 0, c)[0])


@pytest.mark.parametrize(
    ("weights", "variant", "problem"),
    [
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7), peephole=torch.zeros(7)), Variant(), "peephole"),
        (
            Weights(torch.zeros(28, 4), torch.zeros(28, 5), projection=torch.zeros(7, 5)),
            Variant(),
            "w_input|projection",
        ),
        (
            Weights(torch.zeros(28, 4), torch.zeros(28, 7), gain_c=torch.ones(7)),
            Variant(),
            "gain_x and gain_h and bias_c",
        ),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(zoneout=Zoneout(0.1, 0, -1)), "seed -1"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(h_mask=torch.ones(2, 7)), "h_mask"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(zoneout=Zoneout(1.5, 0)), "zoneout"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(zoneout=Zoneout(0, float("nan"))), "zoneout"),
        (Weights(torch.zeros(28, 4), torch.zeros(28, 7)), Variant(coupled=True, exponential=True), "exponential"),
        (
            Weights(torch.zeros(28, 4), torch.zeros(28, 5), projection=torch.zeros(5, 7)),
            Variant(zoneout=Zoneout(0.1, 0)),
            "zoneout",
        ),
    ],
)
def test_what_does_not_fit_is_refused(weights: Weights, variant: Variant, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        native.forward(torch.zeros(5, 3, 4), weights, None, None, None, reverse=False, keep=False, variant=variant)


def test_state_is_three_fold_for_the_exponential_cell() -> None:
    case = variant_of(make(), "exponential")
    assert State(run(case)["h_last"], run(case)["c_last"]).c.shape == (3, 3, 7)
