"""Streams of LSTMLayer and LSTMStack: what steps compute is what the whole sequence gives, for every kind of cell."""

import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from holdfast import Cell, Connection, LSTMLayer, LSTMStack, State, Streams
from holdfast.engine import native
from holdfast.engine.cells import Weights, step
from holdfast.engine.stack import Skip
from holdfast.engine.stream import Precision

from .single_layer import ISAS, needs_native
from .stream_cases import PRECISIONS, ROUNDED, alone, inputs, make_lstm, opened, stepped

pytestmark = needs_native

FEATURES, HIDDEN = 5, 21
CELLS = {
    "plain": Cell(),
    "no bias": Cell(bias=False),
    "peephole": Cell(peephole=True),
    "coupled": Cell(coupled=True, learnt_state=True),
    "peephole coupled": Cell(peephole=True, coupled=True, zoneout_c=0.2),
    "projection": Cell(projection=19, peephole=True),
    "normalised": Cell(normalised=True, learnt_state=True),
    "normalised projection": Cell(normalised=True, projection=6, bias=False),
    "exponential": Cell(exponential=True),
    "exponential learnt": Cell(exponential=True, learnt_state=True, projection=18),
    "zoneout": Cell(zoneout_h=0.2, zoneout_c=0.3, peephole=True),
    "zoneout of c": Cell(projection=9, zoneout_c=0.2),
    "dropout": Cell(dropout_h=0.4, weight_drop=0.3, learnt_state=True),
}
# Where a connection has weights torch multiplies the whole sequence's, in sums of another order.
EXACT = [*CELLS, "widths", "residual"]
STACKS = [*EXACT, "residual reshaped", "highway", "highway reshaped"]


def make(name: str, features: int = FEATURES, hidden: int = HIDDEN) -> LSTMLayer | LSTMStack:
    torch.manual_seed(3)
    mixed = [Cell(peephole=True), Cell(exponential=True, learnt_state=True), Cell(normalised=True, projection=7)]
    wide = [hidden, 2 * hidden + 3, 9]
    made: dict[str, LSTMLayer | LSTMStack] = {
        "widths": LSTMStack(features, wide, mixed),
        "residual": LSTMStack(features, [features] * 3, Cell(zoneout_h=0.1), connection=Connection.RESIDUAL),
        "residual reshaped": LSTMStack(features, wide, mixed, connection=Connection.RESIDUAL),
        "highway": LSTMStack(features, [features] * 2, Cell(coupled=True), connection=Connection.HIGHWAY),
        "highway reshaped": LSTMStack(features, wide, mixed, connection=Connection.HIGHWAY),
    }
    lstm = made[name] if name in made else LSTMLayer(features, hidden, CELLS[name])
    with torch.no_grad():
        for parameter in lstm.parameters():  # so that nothing is zero or one
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return lstm.eval()


def whole(lstm: nn.Module, x: Tensor) -> tuple[Tensor, list[State]]:
    """x [time, batch, features] -> y and the state of every layer."""
    with torch.inference_mode():
        y, state = lstm(x)
    return y, [state] if isinstance(state, State) else state


def states(streams: Streams) -> list[State]:
    found = streams.states()
    return [found] if isinstance(found, State) else found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", STACKS)
def test_steps_are_the_whole_sequence(isa: str, name: str) -> None:
    """The very bits; with a connection's weights 2e-6, what float32 sums are off by (single_layer.py)."""
    native.use_isa(isa)
    lstm = make(name)
    x = inputs(5, 13, FEATURES)
    y, last = whole(lstm, x)
    streams = opened(lstm, 13)
    got = stepped(streams, x)
    pairs = [(got, y), (alone(lstm, "highest", x[:, 3]), y[:, 3])]
    pairs += [
        (a, b) for ours, theirs in zip(states(streams), last, strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        if name in EXACT:
            assert torch.equal(ours, theirs)
        else:
            assert (ours - theirs).abs().max() < 2e-6 * max(1, theirs.abs().max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(EXACT),
    features=st.integers(1, 40),
    hidden=st.integers(20, 70),
    slots=st.integers(1, 110),
    threads=st.integers(1, 3),
    isa=st.sampled_from(ISAS or ["generic"]),
)
def test_any_shape(name: str, features: int, hidden: int, slots: int, threads: int, isa: str) -> None:
    native.use_isa(isa)
    lstm = make(name, features, hidden)
    x = inputs(3, slots, features)
    y, _ = whole(lstm, x)
    got = stepped(opened(lstm, slots, "highest", threads), x[:, 0] if slots == 1 else x)
    assert torch.equal(got.view_as(y), y)


def layer_step_in_double(layer: LSTMLayer, precision: Precision, x: Tensor, before: State) -> State:
    """One step of one layer in float64, on operands rounded as the precision says. x [slots, features]."""
    rounded = ROUNDED[precision]
    w = Weights(*(None if t is None else t.detach().double() for t in layer.weights()))  # pyright: ignore
    variant = layer.variant(x)
    assert w.input is not None
    hoisted = rounded(x) @ rounded(w.input.float()).T
    if w.gain_x is not None:
        hoisted = layer_norm(hoisted, w.gain_x.shape, w.gain_x, None, variant.epsilon)
    hoisted = hoisted if w.bias is None else hoisted + w.bias
    seen = State(rounded(before.h), before.c.double())
    plain = w._replace(recurrent=rounded(w.recurrent.float()), projection=None)
    h, c = step(hoisted, seen, plain, variant, 0).state
    if variant.zoneout.h:
        h = h + variant.zoneout.h * (before.h.double() - seen.h)  # what is kept was never rounded
    return State(h if w.projection is None else rounded(h.float()) @ rounded(w.projection.float()).T, c)


def step_in_double(lstm: LSTMLayer | LSTMStack, precision: Precision, x: Tensor, before: list[State]) -> list[Tensor]:
    """y, and h and c of every layer."""
    rounded = ROUNDED[precision]
    layers = [lstm] if isinstance(lstm, LSTMLayer) else list(lstm.layers)
    skips = [None] if isinstance(lstm, LSTMLayer) else list(lstm.skips)
    found: list[Tensor] = []
    for layer, skip, state in zip(layers, skips, before, strict=True):
        assert isinstance(layer, LSTMLayer)
        after = layer_step_in_double(layer, precision, x, state)
        found += after
        y = after.h
        if isinstance(skip, Skip):
            given = rounded(x)
            carried = x.double() if skip.reshape is None else given @ rounded(skip.reshape.weight.detach()).T
            t = torch.ones_like(y)
            if skip.transform is not None:
                t = (given @ rounded(skip.transform.weight.detach()).T + skip.transform.bias.detach()).sigmoid()
            y = t * y + ((1 - t) if skip.transform is not None else 1) * carried
        x = y.float()
    return [x, *found]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", STACKS)
def test_a_step_is_that_of_the_rounded_operands(isa: str, precision: Precision, name: str) -> None:
    """Tolerances as in test_stream.py, four times those of one layer: a small deviation, or an exponential, magnifies
    what the sums are off by."""
    native.use_isa(isa)
    lstm = make(name)
    streams = opened(lstm, 9, precision)
    for n, (h, c) in enumerate(states(streams)):
        h.copy_(inputs(*h.shape, seed=n) * 0.3)
        c.copy_(inputs(*c.shape, seed=n + 1).abs() + 0.1)
    before = [State(h.clone(), c.clone()) for h, c in states(streams)]
    x = inputs(9, FEATURES)
    y = streams.step(x)
    expected = step_in_double(lstm, precision, x, before)
    one_product = precision == "highest" or (isinstance(lstm, LSTMLayer) and not lstm.cell.projection)
    tolerance = 8e-6 if one_product else {"medium": 4e-3, "int8": 16e-3}[precision]
    for got, wanted in zip([y, *(t for state in states(streams) for t in state)], expected, strict=True):
        assert (got.double() - wanted).abs().max() < tolerance * max(1, wanted.abs().max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["widths", "zoneout", "highway reshaped", "exponential learnt"])
def test_streams_that_come_and_go_are_as_if_alone(isa: str, precision: Precision, name: str) -> None:
    native.use_isa(isa)
    lstm = make(name)
    rng = torch.Generator().manual_seed(3)
    streams = Streams(lstm, 7, precision=precision)
    heard: dict[int, list[Tensor]] = {}
    said: dict[int, list[Tensor]] = {}
    at: dict[int, int] = {}  # stream -> slot
    for turn in range(25):
        if len(at) < 7 and (not at or torch.rand((), generator=rng) < 0.5):
            at[turn] = streams.open()
            heard[turn], said[turn] = [], []
        coming = [stream for stream in at if torch.rand((), generator=rng) < 0.6]
        x = torch.randn(len(coming), FEATURES, generator=rng)
        y = streams.step(x, torch.tensor([at[stream] for stream in coming], dtype=torch.int64))
        for n, stream in enumerate(coming):
            heard[stream].append(x[n])
            said[stream].append(y[n].clone())
        if len(at) > 2 and torch.rand((), generator=rng) < 0.3:
            streams.close(at.pop(min(at)))
    assert sum(map(len, heard.values())) > 40
    for stream in heard:
        if heard[stream]:
            assert torch.equal(torch.stack(said[stream]), alone(lstm, precision, torch.stack(heard[stream])))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize(("rows", "hidden"), [(130, 40), (1, 400), (5, 330)])
def test_same_bits_on_any_number_of_threads(name: str, precision: Precision, rows: int, hidden: int) -> None:
    """Rows shared in chunks; units shared where their weights are large enough."""
    lstm = make(name, 200, hidden)
    x = inputs(3, rows, 200)
    x = x[:, 0] if rows == 1 else x
    expected = stepped(opened(lstm, rows, precision, 1), x)
    for threads in (2, 3):
        assert torch.equal(stepped(opened(lstm, rows, precision, threads), x), expected)


@pytest.mark.parametrize("name", ["coupled", "normalised", "exponential learnt", "widths"])
def test_slots_begin_with_what_has_been_learnt(name: str) -> None:
    lstm = make(name)
    x = inputs(4, FEATURES)
    expected = alone(lstm, "highest", x)
    streams = opened(lstm, 4)
    streams.step(inputs(4, FEATURES, seed=5))
    streams.reset(torch.tensor([2, 0]))
    streams.reset(1)
    streams.close(3)
    streams.open()
    for n, at in enumerate(x):
        assert torch.equal(streams.step(at.expand(4, -1)), expected[n].expand(4, -1))
    with torch.no_grad():
        for parameter_name, parameter in lstm.named_parameters():
            if parameter_name.endswith(("h0", "c0")):
                parameter.add_(1)
    streams.refresh()
    streams.reset()
    assert torch.equal(streams.step(x[:1].expand(4, -1))[3], alone(lstm, "highest", x[:1])[0])
    assert not torch.equal(streams.step(x[:1].expand(4, -1))[3], expected[0])


@pytest.mark.parametrize("name", STACKS)
def test_a_state_goes_on_elsewhere(name: str) -> None:
    lstm = make(name)
    x = inputs(8, FEATURES)
    expected = alone(lstm, "highest", x)
    streams = opened(lstm, 3)
    for at in x[:3]:
        streams.step(at, 1)
    kept = streams.state(1)
    other = opened(make(name), 5)
    other.step(inputs(5, FEATURES, seed=9))
    other.restore(kept, 4)
    assert torch.equal(torch.stack([other.step(at, 4).clone() for at in x[3:]]), expected[3:])
    with pytest.raises(ValueError, match="state"):
        opened(make(name, hidden=20) if name not in ("residual", "highway") else make(name, 4), 1).restore(kept)


def test_states_of_the_first_format_still_load() -> None:
    lstm = make_lstm(4, 7, 2, 5)
    streams, other = Streams(lstm), Streams(lstm)
    for at in inputs(3, 4):
        streams.step(at)
    kept = streams.states()
    assert isinstance(kept, State)
    body = b"".join(t[:, 0].contiguous().numpy().astype("<f4").tobytes() for t in kept)
    first = struct.pack("<8s6I", b"HFSTREAM", 1, 2, 4, 7, 5, zlib.crc32(body)) + body
    other.restore(first)
    assert other.state() == streams.state()
    for spoilt, words in (
        (first[:30], "not the state"),
        (first[:-4], "44 bytes long|92 bytes long"),
        (first[:-1] + bytes([first[-1] ^ 1]), "damaged"),
    ):
        with pytest.raises(ValueError, match=words):
            other.restore(spoilt)
    for stack in (make_lstm(4, 8, 2, 5), make("widths")):
        with pytest.raises(ValueError, match="7 units"):
            Streams(stack).restore(first)


@pytest.mark.parametrize("name", ["widths", "exponential"])
def test_copies_go_on_like_their_sources(name: str) -> None:
    streams = opened(make(name), 5)
    x = inputs(3, 5, FEATURES)
    streams.step(x[0])
    before = [(h.clone(), c.clone()) for h, c in states(streams)]
    streams.copy([0, 0, 1, 3], torch.tensor([1, 2, 0, 3]))  # both sides name 0, 1 and 3
    for (h, c), (h_before, c_before) in zip(states(streams), before, strict=True):
        order = [1, 0, 0, 3, 4]
        assert torch.equal(h, h_before[order]) and torch.equal(c, c_before[..., order, :])
    streams.copy(4, 0)
    y = streams.step(x[1, :1].expand(5, -1))
    assert torch.equal(y[4], y[0]) and torch.equal(y[1], y[2]) and not torch.equal(y[1], y[0])


def test_bad_copies_are_refused() -> None:
    streams = Streams(make_lstm(), 4)
    for _ in range(3):
        streams.open()
    for sources, targets, words in (
        ([0, 1], [2], "must both"),
        ([3], [0], "slot 3 is closed"),
        ([0], [3], "slot 3 is closed"),
        ([0], [7], "out of range"),
        ([0, 1], [2, 2], "named twice"),
        ([0.5], [1], "int"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            streams.copy(torch.tensor(sources) if sources == [0.5] else sources, targets)


def test_training_mode_changes_nothing() -> None:
    """Dropout, weight drop and drawn zoneout are off, and no random number is taken."""
    for name in ("dropout", "zoneout", "widths"):
        lstm = make(name)
        x = inputs(4, FEATURES)
        expected = alone(lstm, "highest", x)
        lstm.train()
        seed = torch.get_rng_state()
        assert torch.equal(alone(lstm, "highest", x), expected)
        assert torch.equal(torch.get_rng_state(), seed)
        assert all(module.training for module in lstm.modules())


def test_what_cannot_be_stepped_is_refused() -> None:
    stack = LSTMStack(3, [4], bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional"):
        Streams(stack)
    with pytest.raises(ValueError, match="float64"):
        Streams(make("peephole").double())
    with pytest.raises(ValueError, match="Linear"):
        Streams(nn.Linear(3, 4))  # pyright: ignore[reportArgumentType]
    layer = make("peephole")
    streams = Streams(layer)
    layer.peephole = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"layer 0's peephole came with shape \[3\]; expected \[63\]"):
        streams.refresh()


def test_poison_stays_in_its_slot() -> None:
    for name in STACKS:
        for precision in PRECISIONS:
            lstm = make(name)
            x = inputs(5, 8, FEATURES)
            clean = stepped(opened(lstm, 8, precision), x)
            spoilt = x.clone()
            spoilt[2, 3, 1] = torch.nan
            streams = opened(lstm, 8, precision)
            found = stepped(streams, spoilt)
            others = [n for n in range(8) if n != 3]
            assert torch.equal(found[:, others], clean[:, others])
            assert found[2:, 3].isnan().all()
            streams.reset(3)
            assert torch.equal(streams.step(x[0])[3], clean[0, 3])
