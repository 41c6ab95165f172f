"""The reference against torch.nn.LSTM and against numeric gradients: the truth that the kernels are held to."""

import pytest
import torch
from torch import Tensor

from holdfast.engine import reference
from holdfast.engine.reference import State, Weights

BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 7  # lopsided: a swapped axis cannot hide


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(projection: int | None = None) -> Weights:
    shown = projection or HIDDEN
    p = None if projection is None else made(projection, HIDDEN, seed=3)
    return Weights(made(4 * HIDDEN, FEATURES), made(4 * HIDDEN, shown, seed=1), made(4 * HIDDEN, seed=2), p)


def state(projection: int | None = None) -> State:
    return State(made(BATCH, projection or HIDDEN, seed=4), made(BATCH, HIDDEN, seed=5))


@pytest.mark.tiny
@pytest.mark.parametrize("projection", [None, 2])
def test_equals_torch(projection: int | None) -> None:
    w, r, b, p, *_ = weights(projection)
    theirs = torch.nn.LSTM(FEATURES, HIDDEN, proj_size=projection or 0, dtype=torch.float64)
    values = [w, r, b, torch.zeros_like(b), *([] if p is None else [p])]
    with torch.no_grad():
        for parameter, value in zip(theirs.parameters(), values, strict=True):
            parameter.copy_(value)
    x, (h0, c0) = made(TIME, BATCH, FEATURES), state(projection)
    y, (h, c) = reference.lstm(x, Weights(w, r, b, p), State(h0, c0))
    want, (want_h, want_c) = theirs(x, (h0.unsqueeze(0), c0.unsqueeze(0)))
    torch.testing.assert_close(y, want)
    torch.testing.assert_close((h, c), (want_h[0], want_c[0]))


def test_a_ragged_row_is_the_row_alone() -> None:
    x, lengths = made(TIME, BATCH, FEATURES), torch.tensor([2, 5, 0])
    x[2:, 0] = float("nan")  # what stands past a row's end must not matter
    for reverse in (False, True):
        y, last = reference.lstm(x, weights(), state(), lengths=lengths, reverse=reverse)
        for row, length in enumerate(lengths.tolist()):
            own = State(*(part[row : row + 1] for part in state()))
            alone, end = reference.lstm(x[:length, row : row + 1], weights(), own, reverse=reverse)
            torch.testing.assert_close(y[:length, row], alone[:, 0])
            torch.testing.assert_close((last.h[row], last.c[row]), (end.h[0], end.c[0]))
            assert (y[length:, row] == 0).all()


def test_reverse_runs_a_flipped_row() -> None:
    x = made(TIME, BATCH, FEATURES)
    y, last = reference.lstm(x, weights(), state(), reverse=True)
    flipped, end = reference.lstm(x.flip(0), weights(), state())
    torch.testing.assert_close((y, *last), (flipped.flip(0), *end))


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 0])])
def test_gradients_once_and_twice(lengths: Tensor | None) -> None:
    x = made(TIME, BATCH, FEATURES).requires_grad_()
    tensors = [t.requires_grad_() for t in (*weights()[:3], *state())]

    def run(x: Tensor, w: Tensor, r: Tensor, b: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        y, last = reference.lstm(x, Weights(w, r, b), State(h, c), lengths=lengths)
        return y, *last

    assert torch.autograd.gradcheck(run, (x, *tensors), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: run(x, *tensors)[0][-1, 1].sum(), (x,), fast_mode=True)


def test_nan_past_a_row_reaches_no_gradient() -> None:
    x, lengths = made(TIME, BATCH, FEATURES), torch.tensor([2, 5, 0])
    x[2:, 0] = float("nan")
    w = weights().input.requires_grad_()
    y, _ = reference.lstm(x, weights()._replace(input=w), lengths=lengths)
    y.sum().backward()
    assert w.grad is not None and w.grad.isfinite().all()


def test_gates_held_open_count_and_held_shut_forget() -> None:
    """Laws of the cell: all gates open, it sums its candidates; the forget gate shut, only the last input matters."""
    big = torch.full((HIDDEN,), 50.0, dtype=torch.float64)
    zero = torch.zeros(4 * HIDDEN, HIDDEN, dtype=torch.float64)
    w = torch.zeros(4 * HIDDEN, FEATURES, dtype=torch.float64)
    w[2 * HIDDEN : 3 * HIDDEN] = made(HIDDEN, FEATURES)
    x = made(TIME, BATCH, FEATURES)
    candidates = (x @ w[2 * HIDDEN : 3 * HIDDEN].T).tanh()
    counting = Weights(w, zero, torch.cat([big, big, 0 * big, big]))
    torch.testing.assert_close(reference.lstm(x, counting)[1].c, candidates.sum(0))
    forgetting = Weights(w, zero, torch.cat([big, -big, 0 * big, big]))
    torch.testing.assert_close(reference.lstm(x, forgetting)[1].c, candidates[-1])
