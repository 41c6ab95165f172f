"""LSTMLayer and LSTMStack: options, resets, gates, stacking; the kernels underneath are tested in test_variants.py."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from holdfast.engine import (
    Cell,
    Connection,
    LSTMLayer,
    LSTMStack,
    State,
    Streams,
    Variant,
    backend_report,
    lstm,
    reference,
)
from holdfast.engine.gates import gates
from holdfast.engine.layer import left_out

TIME, BATCH, FEATURES, HIDDEN = 9, 4, 5, 7
CELLS = {
    "plain": Cell(),
    "no bias": Cell(bias=False),
    "peephole coupled": Cell(peephole=True, coupled=True),
    "normalised": Cell(normalised=True, projection=3),
    "exponential": Cell(exponential=True, learnt_state=True),
    "zoneout": Cell(zoneout_h=0.2, zoneout_c=0.3),
    "dropout": Cell(dropout_h=0.4, weight_drop=0.3, learnt_state=True),
    "projection": Cell(projection=3, zoneout_c=0.2),
}
LENGTHS = torch.tensor([9, 0, 4, 7])


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(name: str) -> LSTMLayer:
    torch.manual_seed(3)
    layer = LSTMLayer(FEATURES, HIDDEN, CELLS[name])
    with torch.no_grad():
        for parameter in layer.parameters():  # so that nothing is zero or one
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer


def state_of(layer: LSTMLayer) -> State:
    h, c = made(BATCH, layer.width, seed=1), made(BATCH, HIDDEN, seed=2)
    return State(h, torch.stack([c, c.exp(), c / 2]) if layer.cell.exponential else c)


@pytest.mark.tiny
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("training", [False, True])
def test_trains_as_the_float64_reference(name: str, training: bool) -> None:
    """Values and every parameter's gradient; the same draws, since both take them from torch's generator."""
    found: list[dict[str, Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        layer = layer_of(name).to(dtype).train(training)
        torch.manual_seed(11)
        if layer.cell.weight_drop or layer.cell.dropout_h:  # dropout draws other masks in another dtype
            layer.cell = replace(layer.cell, weight_drop=0.0, dropout_h=0.0)
        x = made(TIME, BATCH, FEATURES).to(dtype).requires_grad_()
        state = State(*(t.to(dtype) for t in state_of(layer)))
        y, last = layer(x, state, lengths=LENGTHS)
        other, _ = layer(x)
        (y.pow(2).sum() + (last.h * 2).sum() + last.c[..., :, :].sum() * 0.5 + other.pow(2).sum()).backward()
        gradients = {key: p.grad for key, p in layer.named_parameters() if p.grad is not None}
        assert len(gradients) == len(list(layer.parameters()))
        assert x.grad is not None
        found.append({"y": y.detach(), "h": last.h.detach(), "x": x.grad, **gradients})
    for key, wanted in found[1].items():
        torch.testing.assert_close(found[0][key].double(), wanted, rtol=2e-4, atol=2e-5, msg=key)


def test_the_report_says_that_the_kernels_ran() -> None:
    backend_report(reset=True)
    for name in CELLS:
        layer_of(name)(made(TIME, BATCH, FEATURES))
    assert {choice.backend for choice in backend_report(reset=True).calls} == {"native"}


def test_a_plain_layer_is_torchs() -> None:
    theirs = nn.LSTM(FEATURES, HIDDEN)
    ours = LSTMLayer(FEATURES, HIDDEN)
    with torch.no_grad():
        ours.weight_ih.copy_(theirs.weight_ih_l0)
        ours.weight_hh.copy_(theirs.weight_hh_l0)
        assert ours.bias is not None
        ours.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    x = made(TIME, BATCH, FEATURES)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("name", CELLS)
def test_a_reset_begins_a_new_sequence(name: str) -> None:
    """As if the row had been two sequences; with a reset at step 0 the state that came in is gone."""
    layer = layer_of(name).eval()
    x, state = made(TIME, BATCH, FEATURES), state_of(layer)
    resets = torch.zeros(TIME, BATCH, dtype=torch.bool)
    resets[4, 0] = resets[0, 2] = resets[2, 3] = resets[3, 3] = resets[8, 2] = True  # the last is past row 2's end
    y, last = layer(x, state, lengths=LENGTHS, resets=resets)

    def alone(row: int, first: int, end: int, begins: bool) -> tuple[Tensor, State]:
        own = None if begins else State(state.h[row : row + 1], state.c[..., row : row + 1, :])
        return layer(x[first:end, row : row + 1], own)

    cuts = {0: [(0, 4, False), (4, 9, True)], 2: [(0, 4, True)], 3: [(0, 2, False), (2, 3, True), (3, 7, True)]}
    for row, parts in cuts.items():
        for first, end, begins in parts:
            mine, after = alone(row, first, end, begins)
            torch.testing.assert_close(y[first:end, row], mine[:, 0])
        torch.testing.assert_close(last.h[row], after.h[0])
        torch.testing.assert_close(last.c[..., row, :], after.c[..., 0, :])
    assert (y[4:, 2] == 0).all() and torch.equal(last.h[1], state.h[1])


def test_resets_pass_gradients_where_they_should() -> None:
    layer = layer_of("plain").double()
    x = made(TIME, 2, FEATURES).double().requires_grad_()
    resets = torch.zeros(TIME, 2, dtype=torch.bool)
    resets[5, 1] = True
    y, _ = layer(x, resets=resets)
    y[-1].sum().backward()
    assert x.grad is not None
    assert (x.grad[:5, 1] == 0).all() and (x.grad[5:, 1] != 0).all() and (x.grad[:, 0] != 0).all()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_are_those_of_the_reference(name: str, reverse: bool) -> None:
    layer = layer_of(name)
    x, state = made(TIME, BATCH, FEATURES), state_of(layer)
    mine = layer.gates(x, state, lengths=LENGTHS, reverse=reverse)
    assert layer.training
    layer.eval().double()
    double = State(state.h.double(), state.c.double())
    wanted = reference.gates(
        x.double(), layer.weights(), double, lengths=LENGTHS, reverse=reverse, variant=layer.variant(x)
    )
    for own, expected in zip(mine, wanted, strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-5)
    if layer.cell.projection is None and not (layer.cell.exponential or layer.cell.zoneout_h):
        y, _ = layer.float()(x, state, lengths=LENGTHS, reverse=reverse)
        shown = mine.o * mine.c.tanh()
        torch.testing.assert_close(shown, y.detach() if not layer.cell.normalised else shown)


def test_gates_of_nothing_are_empty() -> None:
    layer = layer_of("plain")
    assert gates(made(0, 3, FEATURES), layer.weights()).i.shape == (0, 3, HIDDEN)


def test_weight_drop_and_dropout_are_drawn_anew_and_only_in_training() -> None:
    layer, x = layer_of("dropout"), made(TIME, BATCH, FEATURES)
    torch.manual_seed(0)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(0)
    again = layer(x)[0]
    assert torch.equal(first, again) and not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_weight_drop_leaves_out_the_share_that_was_asked_for() -> None:
    layer = LSTMLayer(3, 100, Cell(weight_drop=0.3))
    torch.manual_seed(0)
    dropped, whole = layer.weights().recurrent, layer.weight_hh
    out = dropped == 0
    assert abs(out.float().mean() - 0.3) < 0.01  # 40,000 elements: four deviations
    torch.testing.assert_close(dropped[~out], whole[~out] / 0.7)
    dropped.sum().backward()
    torch.testing.assert_close(layer.weight_hh.grad, (~out) / 0.7)


def test_weight_drop_has_dice_of_its_own_for_every_element() -> None:
    """Four of them share a number: none of its quarters is like another."""
    torch.manual_seed(0)
    kept = (left_out(torch.ones(40_001), 0.4) != 0)[:40_000].view(-1, 4).float()
    assert ((kept.mean(0) - 0.6).abs() < 0.02).all()  # four deviations
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.04
    alike = vmap(lambda w: left_out(w, 0.4), randomness="different")(torch.ones(3, 5, 7))
    assert not torch.equal(alike[0], alike[1])


def test_initialisation() -> None:
    span = LSTMLayer(FEATURES, 400, Cell(memory_span=100))
    assert span.bias is not None
    forget = span.bias[400:800]
    assert forget.min() >= 0 and forget.max() <= math.log(99)
    torch.testing.assert_close(span.bias[:400], -forget)
    assert abs(forget.exp().mean() - 50) < 6  # uniform over 1..99: four deviations of 400 draws
    biased = LSTMLayer(FEATURES, HIDDEN, Cell(forget_bias=1.0, coupled=True))
    assert biased.bias is not None
    assert (biased.bias[:HIDDEN] == 1).all() and (biased.bias[HIDDEN:] != 1).all()
    normal = LSTMLayer(FEATURES, HIDDEN, Cell(normalised=True))
    assert normal.gain_c is not None and (normal.gain_c == 1).all()


@pytest.mark.parametrize("connection", Connection)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack(connection: Connection, bidirectional: bool) -> None:
    """Different widths and cells; a row alone is what it is in a ragged batch; state and gradients reach everything."""
    torch.manual_seed(0)
    cells = [Cell(normalised=True), Cell(projection=3), Cell(exponential=True)]
    stack = LSTMStack(5, [6, 8, 4], cells, bidirectional=bidirectional, batch_first=True, connection=connection)
    x = made(BATCH, TIME, FEATURES)
    y, states = stack(x, lengths=LENGTHS)
    ways = 2 if bidirectional else 1
    assert y.shape == (BATCH, TIME, 4 * ways) and len(states) == 3 * ways and stack.output_size == 4 * ways
    for row in (0, 2, 3):
        alone, own = stack(x[row : row + 1, : LENGTHS[row]])
        torch.testing.assert_close(alone[0], y[row, : LENGTHS[row]])
        torch.testing.assert_close(own[-1].h[0], states[-1].h[row])
    assert (y[1] == 0).all() and (y[2, 4:] == 0).all()
    y.pow(2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in stack.parameters())
    if not bidirectional:
        one, middle = stack(x[:, :3])
        two, end = stack(x[:, 3:], middle)
        whole, last = stack(x)
        torch.testing.assert_close(torch.cat([one, two], 1), whole)
        torch.testing.assert_close(end[2].c, last[2].c)
    assert stack.gates(x.transpose(0, 1) if not stack.batch_first else x, ways).i.shape == (TIME, BATCH, 8)


@pytest.mark.parametrize("connection", Connection)
def test_padding_is_never_read(connection: Connection) -> None:
    stack = LSTMStack(4, [6, 6], connection=connection)
    found: list[list[Tensor]] = []
    for padding in (0.0, float("nan")):
        x = made(5, 3, 4)
        x[2:, 1] = padding
        stack.zero_grad()
        y, _ = stack(x, lengths=torch.tensor([5, 2, 3]))
        y.pow(2).sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in stack.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gates_leave_every_module_as_it_was() -> None:
    stack = LSTMStack(4, [6, 6])
    stack.layers[0].eval()
    stack.gates(made(5, 3, 4), 1)
    assert stack.training and not stack.layers[0].training and stack.layers[1].training


def test_a_mask_changed_before_the_backward_pass_is_noticed() -> None:
    layer = LSTMLayer(4, 6)
    mask = torch.ones(3, 6)
    y, _ = lstm(made(5, 3, 4), layer.weights(), variant=Variant(h_mask=mask))
    mask.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_lazily_negated_tensors_count_with_their_sign() -> None:
    layer, x = LSTMLayer(4, 6), made(5, 3, 4)
    negated = torch._neg_view(x)
    assert negated.is_neg()
    torch.testing.assert_close(layer(negated)[0], layer(-x)[0])
    lstm_module = nn.LSTM(4, 6)
    one, other = Streams(lstm_module), Streams(lstm_module)
    assert torch.equal(one.step(torch._neg_view(x[0, 0])), other.step(-x[0, 0]))


def test_a_highway_can_carry() -> None:
    stack = LSTMStack(5, [5], connection=Connection.HIGHWAY)
    skip = stack.skips[0]
    with torch.no_grad():
        skip.transform.bias.fill_(-100)  # pyright: ignore
    x = made(TIME, BATCH, FEATURES)
    torch.testing.assert_close(stack(x)[0], x)


def test_input_dropout_keeps_its_mask_for_a_whole_sequence() -> None:
    stack = LSTMStack(50, [4], dropout=0.5)
    dropped = stack.drop(torch.ones(TIME, BATCH, 50))
    assert (dropped == dropped[0]).all() and set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(stack.eval().drop(torch.ones(2, 2, 50)), torch.ones(2, 2, 50))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Cell(exponential=True, peephole=True), "exponential"),
        (lambda: Cell(normalised=True, zoneout_c=0.1), "normalisation"),
        (lambda: Cell(projection=3, zoneout_h=0.1), "projection"),
        (lambda: Cell(weight_drop=1.0), "weight_drop"),
        (lambda: Cell(projection=0), "width"),
        (lambda: Cell(memory_span=2), "memory_span"),
        (lambda: LSTMLayer(0, 3), "input_size"),
        (lambda: LSTMStack(3, []), "hidden_sizes"),
        (lambda: LSTMStack(3, [4, 5], [Cell()]), "2 hidden_sizes and 1 cells"),
        (lambda: LSTMStack(3, [4], dropout=1.5), "dropout"),
        (lambda: LSTMStack(3, [4])(made(5, 3)), "three axes"),
        (lambda: LSTMStack(3, [4])(made(5, 2, 3), []), "0 states"),
        (lambda: LSTMLayer(3, 4)(made(5, 2, 4)), r"\[time, batch, 3\]"),
        (lambda: LSTMLayer(3, 4)(made(5, 2, 3), resets=torch.zeros(5, 2)), "resets must be bool"),
        (lambda: LSTMStack(3, [4, 4])(made(5, 2, 3), (made(2, 2, 4), made(2, 2, 4))), "one for each layer"),
        (
            lambda: LSTMStack(3, [4], bidirectional=True)(made(5, 2, 3), resets=torch.zeros(5, 2).bool()),
            "bidirectional",
        ),
        (lambda: LSTMLayer(3, 4)(nn.utils.rnn.pack_sequence([made(5, 3)])), "padded with lengths"),
        (lambda: LSTMLayer(3, 4)(made(5, 2, 3), (made(1, 4), made(2, 4))), r"h of the state came as \[1, 4\]"),
        (
            lambda: LSTMLayer(3, 4)(made(5, 2, 3), lengths=torch.tensor([6, 1]), resets=torch.zeros(5, 2).bool()),
            "between 0 and 5",
        ),
        (lambda: Cell(memory_span=10, forget_bias=1.0), "one of them"),
        (lambda: Cell(bias=False, forget_bias=1.0), "bias=False"),
        (lambda: LSTMStack(3, [4]).gates(made(5, 2, 3), 1), "0 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()  # pyright: ignore
