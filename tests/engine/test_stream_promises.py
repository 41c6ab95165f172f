"""What streams promise beside right numbers: states kept apart and movable, misuse refused, nothing made per step."""

import copy
import pickle
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast import Streams
from holdfast.engine import native
from holdfast.engine.stream import Precision

from .single_layer import ISAS, needs_native
from .stream_cases import PRECISIONS, alone, inputs, make_lstm, opened, stepped

pytestmark = needs_native
INFINITY = 0x7F800000  # as bits; what is larger is a NaN: torch's own, the largest and the least


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("rows", "features", "hidden", "layers", "projection"),
    [
        (130, 12, 64, 2, 0),  # rows shared, in chunks
        (50, 30, 80, 2, 33),
        (1, 16, 400, 1, 0),  # units shared, where their weights are large enough: in float32 these, in int8 the last
        (5, 200, 416, 2, 0),
        (2, 64, 1024, 1, 200),
    ],
)
def test_same_bits_on_any_number_of_threads(
    rows: int, features: int, hidden: int, layers: int, projection: int, precision: Precision
) -> None:
    lstm = make_lstm(features, hidden, layers, projection)
    x = inputs(3, rows, features)
    x = x[:, 0] if rows == 1 else x
    expected = stepped(opened(lstm, rows, precision, 1), x)
    for threads in (2, 3, 6):
        assert torch.equal(stepped(opened(lstm, rows, precision, threads), x), expected)


def test_all_ways_to_say_one_stream() -> None:
    lstm = make_lstm()
    x = inputs(9, 4)
    expected = alone(lstm, "highest", x)
    ways: list[Callable[[Streams, Tensor], Tensor]] = [
        lambda s, at: s.step(s.input.copy_(at)),
        lambda s, at: s.step(at.view(1, 4))[0],
        lambda s, at: s.step(at, 0),
        lambda s, at: s.step(at.view(1, 4), 0)[0],
        lambda s, at: s.step(at.view(1, 4), [0])[0],
        lambda s, at: s.step(at.numpy()),
        lambda s, at: s.step(at.numpy()[None], np.int64(0))[0],
        lambda s, at: s.step(at.repeat_interleave(2)[::2]),  # every other element
        lambda s, at: s.step(nn.Parameter(at)),
    ]
    one = Streams(lstm)
    for at, way, y in zip(x, ways, expected, strict=True):
        assert torch.equal(way(one, at), y)


def test_all_ways_to_say_several_streams() -> None:
    lstm = make_lstm()
    x = inputs(5, 3, 4)
    one, other = opened(lstm, 3), opened(lstm, 3)
    slots = torch.tensor([2, 9, 0, 9, 1])
    wide = torch.randn(3, 9)
    wide[:, 2:6] = x[2]
    ways: list[Callable[[Streams], Tensor]] = [
        lambda s: s.step(s.input.copy_(x[0])),
        lambda s: s.step(x[1][slots[::2]], slots[::2])[slots[::2].argsort()],
        lambda s: s.step(wide[:, 2:6], np.arange(3)),
        lambda s: s.step(x[3].t().contiguous().t(), [0, 1, 2]),
        lambda s: s.step(x[4].numpy()),
    ]
    for at, way in zip(x, ways, strict=True):
        assert torch.equal(way(one), other.step(at))
    assert torch.equal(one.step(x[0][:0], slots[:0]), torch.zeros(0, 7))  # nobody came
    assert torch.equal(one.states().c, other.states().c)
    expanded = x[0, :1].expand(3, 4)
    assert torch.equal(one.step(expanded), other.step(expanded.contiguous()))


def test_poison_stays_in_its_slot_and_is_not_lost() -> None:
    for isa in ISAS:
        native.use_isa(isa)
        for precision in PRECISIONS:
            lstm = make_lstm(4, 21, 2)
            x = inputs(6, 8, 4)
            clean = stepped(opened(lstm, 8, precision), x)
            others = [n for n in range(8) if n != 3]
            for poison in (0x7FC00000, 0x7FFFFFFF, 0x7F800001, INFINITY):
                spoilt = x.clone()
                spoilt.view(torch.int32)[2, 3, 1] = poison
                streams = opened(lstm, 8, precision)
                found = stepped(streams, spoilt)
                assert torch.equal(found[:, others], clean[:, others])
                assert torch.equal(found[:2], clean[:2])
                # An Inf has no scale in int8, and may not look like a number.
                if poison != INFINITY or precision == "int8":
                    assert found[2:, 3].isnan().all()
                streams.reset(3)
                assert torch.equal(streams.step(x[0])[3], clean[0, 3])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_of_zeros_and_of_next_to_nothing(precision: Precision) -> None:
    lstm = make_lstm(bias=False)
    streams = Streams(lstm, precision=precision)
    assert torch.equal(streams.step(torch.zeros(4)), torch.zeros(7))
    assert streams.step(torch.full((4,), 1e-42)).abs().max() < 1e-35
    assert streams.step(torch.full((4,), 1e-10)).abs().max() < 1e-9
    assert streams.step(torch.full((4,), 1e38)).isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_goes_on_elsewhere(precision: Precision) -> None:
    lstm = make_lstm(4, 7, 2, 5)
    x = inputs(8, 4)
    expected = alone(lstm, precision, x)
    streams = opened(lstm, 3, precision)
    for at in x[:3]:
        streams.step(at, 1)
    kept = streams.state(1)
    assert kept == streams.state(1) and isinstance(kept, bytes)
    other = opened(make_lstm(4, 7, 2, 5), 5, precision)
    other.step(inputs(5, 4, seed=9))
    other.restore(kept, 4)
    assert torch.equal(torch.stack([other.step(at, 4).clone() for at in x[3:]]), expected[3:])
    fresh = Streams(lstm)
    fresh.restore(kept)  # in another precision too
    assert torch.equal(fresh.states().c[:, 0], streams.states().c[:, 1])


def broken(kept: bytes, at: int, new: bytes) -> bytes:
    return kept[:at] + new + kept[at + len(new) :]


def test_broken_states_are_refused() -> None:
    streams = Streams(make_lstm())
    streams.step(inputs(4))
    kept = streams.state()
    header, body = kept[:16], kept[20:]  # between them the checksum
    longer = body + bytes(4)
    for state, words in (
        (b"", "not the state"),
        (kept[:20], "not the state"),
        (broken(kept, 0, b"PK"), "not the state"),
        (broken(kept, 8, struct.pack("<I", 3)), "format 3"),
        (Streams(make_lstm(4, 8)).state(), "8 units"),
        (Streams(make_lstm(5, 7)).state(), "5 features"),
        (Streams(make_lstm(4, 7, 2)).state(), "2 layers"),
        (Streams(make_lstm(4, 7, 1, 3)).state(), "3 outputs"),
        (kept[:-1], "55 bytes long"),
        (header + struct.pack("<I", zlib.crc32(longer)) + longer, "60 bytes long"),
        (broken(kept, 40, bytes([kept[40] ^ 1])), "damaged"),
    ):
        with pytest.raises(ValueError, match=words):
            streams.restore(state)
        assert streams.state() == kept


def test_bad_steps_are_refused_and_change_nothing() -> None:
    streams = Streams(make_lstm(), 4)
    for _ in range(3):
        streams.open()
    streams.close(1)
    streams.step(inputs(2, 4), [0, 2])
    before = [t.clone() for t in streams.states()]
    x = inputs(2, 4)
    for given, slots, words in (
        (x[0], 1, "slot 1 is closed"),
        (x[0], 3, "slot 3 is closed"),
        (x[0], 4, "slot 4 is out of range"),
        (x[0], -1, "slot -1 is out of range"),
        (x[0], 2**64, "out of range"),
        (x, [0, 0], "slot 0 is named 2 times"),
        (x, [2, 1], "slot 1 is closed"),
        (x, [2, -3], "slot -3 is out of range"),
        (x, [0, 2, 1], "expected \\[3, 4\\]"),
        (inputs(5, 4), [0, 2, 0, 2, 0], "5 slots were named"),
        (inputs(4, 4), None, "slot 1 is closed"),
        (x, None, "expected \\[4, 4\\]"),
        (x, 0, "one stream"),
        (x, torch.tensor([0.0, 2.0]), "expected torch.int64"),
        (x, torch.tensor([[0, 2]]), "expected \\[n\\]"),
        (x.double(), [0, 2], "float64"),
        (x.double().numpy(), [0, 2], "float64"),
        (x.numpy()[::-1], [0, 2], "strides"),
        (x.numpy().astype(">f4"), [0, 2], "copy"),
        (x.to_sparse(), [0, 2], "expected torch.float32"),
        (x.to("meta"), [0, 2], "meta"),
        (x[0].to_sparse(), 0, "sparse"),
        (x[0].to("meta"), 0, "meta"),
        (x[0].numpy().astype(">f4"), 0, "copy"),
        (x[0].tolist(), None, "list"),
        ([0.0] * 4, 0, "list"),
        (inputs(2, 5), [0, 2], "expected \\[2, 4\\]"),
        (inputs(5), 0, "\\[4\\] or \\[1, 4\\]"),
    ):
        with pytest.raises(ValueError, match=words):
            streams.step(given, slots)  # pyright: ignore[reportArgumentType]
        assert all(torch.equal(now, then) for now, then in zip(streams.states(), before, strict=True))
    streams.step(x, [2, 0])


def test_lstms_that_cannot_be_stepped_are_refused() -> None:
    for lstm, words in (
        (nn.LSTM(3, 4, bidirectional=True), "bidirectional"),
        (nn.LSTM(3, 4).double(), "float64"),
        (nn.LSTM(3, 4).to("meta"), "meta"),
        (nn.GRU(3, 4), "GRU"),
    ):
        with pytest.raises(ValueError, match=words):
            Streams(lstm)  # pyright: ignore[reportArgumentType]
    for changed in ({"slots": 0}, {"threads": 0}, {"precision": "float32"}):
        with pytest.raises(ValueError, match=next(iter(changed))):
            Streams(make_lstm(), **changed)  # pyright: ignore[reportArgumentType]


def test_slots_are_given_and_taken_back() -> None:
    streams = Streams(make_lstm(), 3)
    assert [streams.open() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="all 3 slots are open"):
        streams.open()
    streams.step(inputs(3, 4))
    streams.close(1)
    for act in (streams.close, streams.state, streams.reset, lambda slot: streams.restore(b"", slot)):
        with pytest.raises(ValueError, match="slot 1 is closed"):
            act(1)
    assert streams.open() == 1
    assert not streams.states().c[:, 1].any() and streams.states().c[:, 2].any()
    streams.reset(torch.tensor([0]))
    assert not streams.states().h[:, 0].any() and streams.states().h[:, 2].any()
    streams.reset()
    assert not streams.states().h.any() and not streams.states().c.any()


def test_a_step_makes_nothing() -> None:
    one, many = Streams(make_lstm()), opened(make_lstm(), 3)
    x, rows, slots = inputs(4), inputs(2, 4), torch.tensor([2, 0])
    calls: list[Callable[[], Tensor]] = [
        lambda: one.step(x),
        lambda: one.step(one.input),
        lambda: many.step(x, 1),
        lambda: many.step(rows, slots),
        lambda: many.step(many.input),
    ]
    for call in calls:
        first = call()
        assert call() is first
        tracemalloc.start()
        call()
        begin, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(50):
            call()
        end, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert end - begin < 50, end - begin  # less than an object a step: bytes
        assert peak - begin < 2000, peak - begin  # numbers on their way into the call


def test_weights_are_a_copy_until_refreshed() -> None:
    lstm = make_lstm()
    x = inputs(4)
    streams = Streams(lstm)
    before = streams.step(x).clone()
    with torch.no_grad():
        lstm.weight_ih_l0.mul_(2)
    streams.reset()
    assert torch.equal(streams.step(x), before)
    streams.reset()
    streams.refresh()
    assert torch.equal(streams.step(x), Streams(lstm).step(x)) and not torch.equal(streams.step(x), before)


def test_an_object_keeps_its_instruction_set() -> None:
    for isa in ISAS:
        native.use_isa(isa)
        streams, expected = Streams(make_lstm(4, 30)), alone(make_lstm(4, 30), "highest", inputs(3, 4))
        native.use_isa("generic")
        assert torch.equal(stepped(streams, inputs(3, 4)), expected)


def test_made_in_inference_mode_and_used_outside() -> None:
    with torch.inference_mode():
        streams = Streams(make_lstm())
        expected = streams.step(inputs(4)).clone()
    streams.reset()
    streams.input.copy_(inputs(4))
    assert torch.equal(streams.step(streams.input), expected)


def test_torchs_own_lstm_in_training_mode_with_dropout() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 7, 2, dropout=0.5, batch_first=True)
    y, _ = lstm.eval()(inputs(1, 6, 4))
    assert torch.allclose(stepped(Streams(lstm.train()), inputs(1, 6, 4)[0]), y[0], atol=1e-6)


def test_two_python_threads_with_streams_of_their_own() -> None:
    wrong: list[int] = []
    lstms = [make_lstm(20, 64, seed=seed) for seed in range(2)]
    xs = [inputs(200, 20, seed=seed) for seed in range(2)]
    rows = [inputs(20, 60, 20, seed=seed) for seed in range(2)]
    ones = [alone(lstm, "highest", x) for lstm, x in zip(lstms, xs, strict=True)]
    manys = [stepped(opened(lstm, 60, threads=1), x) for lstm, x in zip(lstms, rows, strict=True)]

    def work(n: int) -> None:
        for _ in range(3):
            if not torch.equal(alone(lstms[n], "highest", xs[n]), ones[n]):
                wrong.append(n)
            if not torch.equal(stepped(opened(lstms[n], 60, threads=2), rows[n]), manys[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_steps_at_once_on_the_same_streams_are_told() -> None:
    streams = Streams(make_lstm())
    before = streams.state()
    streams.memory._streams.busy = 1
    with pytest.raises(RuntimeError, match="another thread"):
        streams.step(inputs(4))
    assert streams.state() == before
    streams.memory._streams.busy = 0
    streams.step(inputs(4))


def test_refresh_refuses_weights_of_another_shape() -> None:
    lstm = torch.nn.LSTM(4, 7)
    streams = Streams(lstm)
    streams.lstm = torch.nn.LSTM(4, 8)
    with pytest.raises(ValueError, match="make new Streams"):
        streams.refresh()
    streams.lstm = lstm
    lstm.weight_hh_l0 = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"weight_hh_l0 came with shape \[3, 3\]; expected \[28, 7\]"):
        streams.refresh()


def test_the_input_is_filled_in_place_and_never_another() -> None:
    streams = Streams(torch.nn.LSTM(4, 7))
    with pytest.raises(AttributeError):
        streams.input = torch.zeros(4)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda streams: pickle.loads(pickle.dumps(streams))])  # noqa: S301
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_copy_goes_on_where_the_original_was(again: Callable[[Streams], Streams], precision: Precision) -> None:
    """Each with states of its own; which slots are open, and which comes next, included."""
    streams = Streams(make_lstm(layers=2, projection=3), 5, precision=precision, threads=1)
    first, second, third = (streams.open() for _ in range(3))
    streams.close(second)
    streams.step(inputs(2, 4), [first, third])
    other = again(streams)
    assert other.state(first) == streams.state(first) != other.state(third)
    x = inputs(3, 2, 4)
    for at in x:
        wanted = streams.step(at, [third, first]).clone()
        assert torch.equal(other.step(at, [third, first]), wanted)
    streams.reset(first)
    assert other.state(first) != streams.state(first)
    with pytest.raises(ValueError, match=f"slot {second} is closed"):
        other.step(x[0, 0], second)
    assert other.open() == streams.open() == second


def test_a_zero_without_numbers_is_a_step_of_zeros() -> None:
    lstm = make_lstm()
    one, other = Streams(lstm), Streams(lstm)
    for _ in range(2):
        assert torch.equal(one.step(torch._efficientzerotensor(4)), other.step(torch.zeros(4)))
