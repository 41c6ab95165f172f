"""lstm_recomputed is lstm, in memory that does not grow with time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast.engine import State, lstm
from holdfast.engine.recompute import lstm_recomputed

from .single_layer import Case, make, needs_native
from .test_variants import variant_of

pytestmark = needs_native


def gradients(case: Case, chunk: int | None) -> list[Tensor]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in (case.x, case.h0, case.c0, *case.weights())]
    x, h0, c0, *rest = leaves
    assert x is not None and h0 is not None and c0 is not None
    weights, state = type(case.weights())(*rest), State(h0, c0)
    if chunk is None:
        y, last = lstm(x, weights, state, lengths=case.lengths, variant=case.variant)
    else:
        y, last = lstm_recomputed(x, weights, state, chunk=chunk, lengths=case.lengths, variant=case.variant)
    assert case.dy is not None and case.dh is not None and case.dc is not None
    torch.autograd.backward([y, last.h, last.c], [case.dy, case.dh, case.dc])
    return [
        y.detach(),
        last.h.detach(),
        last.c.detach(),
        *(t.grad for t in leaves if t is not None and t.grad is not None),
    ]


@pytest.mark.parametrize("name", ["plain", "peephole mask", "exponential", "projection", "normalised"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_gradients_are_those_of_the_plain_call(name: str, ragged: bool, chunk: int) -> None:
    case = make(23, 4, 5, 19, ragged)
    case = case if name == "plain" else variant_of(case, name)
    plain, again = gradients(case, None), gradients(case, chunk)
    assert len(plain) == len(again) >= 9
    for n, (wanted, got) in enumerate(zip(plain, again, strict=True)):
        if n < 6 and name != "exponential":
            assert torch.equal(wanted, got), n
        else:  # sums over time in another order; and of m, a constant within a chunk
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_zoneout_does_not_repeat_from_chunk_to_chunk() -> None:
    case = variant_of(make(40, 1, 3, 64), "zoneout")
    case.x[:] = case.x[:1]
    zoneout = case.variant.zoneout._replace(h=0.5)
    y, _ = lstm_recomputed(case.x, case.weights(), chunk=10, variant=case.variant._replace(zoneout=zoneout))
    still = (y[1:] == y[:-1]).float()[:, 0]  # units that kept their h
    assert abs(still[10:19].flatten() @ still[20:29].flatten() / (9 * 64) - 0.25) < 0.1


def test_without_gradients_nothing_is_kept() -> None:
    case = make(23, 4, 5, 19)
    with torch.no_grad():
        assert not lstm_recomputed(case.x, case.weights(), chunk=5)[0].requires_grad


def test_a_mask_changed_before_the_backward_pass_is_noticed() -> None:
    case = variant_of(make(23, 4, 5, 19), "mask")
    y, _ = lstm_recomputed(case.x.requires_grad_(), case.weights(), chunk=5, variant=case.variant)
    assert case.variant.h_mask is not None
    case.variant.h_mask.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_has_a_step(chunk: int) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        lstm_recomputed(make().x, make().weights(), chunk=chunk)


PEAK = """
import re, sys, torch
from pathlib import Path
from holdfast.engine import Weights, lstm
from holdfast.engine.recompute import lstm_recomputed
torch.set_num_threads(1)
weights = Weights(*(torch.randn(s).mul_(0.1).requires_grad_() for s in ((256, 4), (256, 64), (256,))))
x = torch.randn(40_000, 1, 4)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
y, _ = lstm(x, weights) if sys.argv[1] == "plain" else lstm_recomputed(x, weights, chunk=400)
y.sum().backward()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_is_x_y_and_a_chunk() -> None:
    """40,000 steps of 64 units: y and its gradient are 10 MB each, what the plain call keeps is 51 MB more."""
    plain, again = (
        int(subprocess.run([sys.executable, "-c", PEAK, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "recomputed")
    )
    assert plain > 60_000 and plain - again > 25_000, (plain, again)  # kilobytes
