"""Recomputing from the borders of chunks gives what the plain call gives."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from holdfast.engine import State, Variant, Weights, Zoneout, lstm
from holdfast.engine.cells import PLAIN
from holdfast.engine.recompute import lstm_recomputed

from .single_layer import distance, make, needs_native


def everything(chunk: int | None, use_y: bool = True, variant: Variant = PLAIN) -> list[Tensor]:
    case = make(23, 3, 4, 7)
    c0 = case.c0
    assert case.w is not None and case.h0 is not None and c0 is not None and case.dy is not None
    if variant.exponential:
        c0 = torch.stack([c0, c0.abs() + 1, c0])
    inputs = [t.clone().requires_grad_() for t in (case.x, case.h0, c0, *case.inputs()[1:4])]
    x, h0, c0, *weights = inputs
    if chunk is None:
        y, last = lstm(x, Weights(*weights), State(h0, c0), variant=variant)
    else:
        y, last = lstm_recomputed(x, Weights(*weights), State(h0, c0), chunk=chunk, variant=variant)
    loss = (last.h * 2).sum() + last.c.square().sum() + ((y * case.dy).sum() if use_y else 0)
    return [y.detach(), *(s.detach() for s in last), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 100])
@pytest.mark.parametrize("use_y", [True, False])
@pytest.mark.parametrize("variant", [Variant(), Variant(coupled=True), Variant(exponential=True)])
def test_same_as_the_plain_call(chunk: int, use_y: bool, variant: Variant) -> None:
    """All but the weights' gradients to the bit; those are summed chunk by chunk, 23 terms in another order."""
    both = zip(everything(chunk, use_y, variant), everything(None, use_y, variant), strict=True)
    for n, (got, plain) in enumerate(both):
        if n < 6:
            assert torch.equal(got, plain), n
        assert distance(got, plain.double()) < 2e-6


def test_only_what_is_wanted_and_no_steps() -> None:
    case = make(6, 3, 4, 7)
    weights = case.weights()
    x = case.x.clone().requires_grad_()
    y, _ = lstm_recomputed(x, weights, chunk=4)
    plain, _ = lstm(case.x.requires_grad_(), weights)
    assert torch.equal(*(torch.autograd.grad(out.sum(), given)[0] for out, given in ((y, x), (plain, case.x))))
    before = State(torch.randn(3, 7, requires_grad=True), torch.randn(3, 7))
    y, last = lstm_recomputed(torch.empty(0, 3, 4), weights, before)
    assert y.shape == (0, 3, 7) and torch.equal(last.h, before.h)
    assert torch.equal(torch.autograd.grad(last.h.sum(), before.h)[0], torch.ones(3, 7))


def test_misuse_is_named() -> None:
    case = make()
    with pytest.raises(ValueError, match="chunk counts steps"):
        lstm_recomputed(case.x, case.weights(), chunk=0)
    with pytest.raises(ValueError, match="zoneout is drawn"):
        lstm_recomputed(case.x, case.weights(), variant=Variant(zoneout=Zoneout(0.1, 0.1, 3)))


PEAK = """
import resource, torch
from holdfast.engine import Weights
from holdfast.engine.recompute import lstm_recomputed
torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
weights = Weights(torch.randn(256, 2) / 8, (torch.randn(256, 64) / 8).requires_grad_(), None)
def run(steps):
    lstm_recomputed(torch.randn(steps, 1, 2), weights, chunk=500)[0].sum().backward()
run(1000)
before = peak()
run(50000)
print(peak() - before)
"""


@needs_native
def test_memory_for_one_chunk() -> None:
    """y takes 12 MiB and its gradient is one number expanded; what the plain call keeps would take 61 MiB more."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
