"""The attention decoder's step against the same network in plain torch, and what it promises beside right numbers."""

import itertools
import threading
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast import State
from holdfast.engine import native
from holdfast.engine.decoder import DecoderStep
from holdfast.engine.stream import Precision

from .decoder_cases import COMBINED, EMBEDDED, HIDDEN, REMEMBERED, WORDS, Network, made, network, sources_of
from .single_layer import ISAS, needs_native
from .stream_cases import PRECISIONS, inputs

pytestmark = needs_native


def run(net: Network, precision: Precision, threads: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Six hypotheses of three sources, some of which come at each of seven steps; ours and torch's in float64."""
    step = made(net, 6, precision, threads)
    sources = sources_of(step)
    slots = [step.open(source) for source in sources for _ in range(2)]
    of = dict(zip(slots, (pair for pair in sources.values() for _ in range(2)), strict=True))
    double = net.double()
    fed: dict[int, Tensor] = {slot: torch.zeros(COMBINED).double() for slot in slots}
    state: dict[int, object] = dict.fromkeys(slots)
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    rng = torch.Generator().manual_seed(5)
    for _ in range(7):
        coming = torch.randperm(6, generator=rng)[: int(torch.randint(1, 7, (), generator=rng))]
        tokens = torch.randint(0, net.embedding.shape[0], coming.shape, generator=rng)
        result, alpha = step.step(tokens, coming)
        for row, slot in enumerate(coming.tolist()):
            source = tuple(t.double() for t in of[slot])
            wanted, weights, fed[slot], state[slot] = double.step(int(tokens[row]), source, fed[slot], state[slot])  # pyright: ignore
            length = weights.shape[0]
            assert not alpha[row, length:].any() and alpha.shape[1] == 17
            ours += [result[row].clone(), alpha[row, :length].clone(), step._fed[slot].clone()]
            theirs += [wanted, weights, fed[slot]]
    return ours, theirs


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("kind", "words", "bias"), [("torch", WORDS, True), ("torch", 1, False), ("stack", 200, True)])
def test_is_the_network_in_float64(isa: str, kind: str, words: int, bias: bool) -> None:
    """Seven steps, each feeding the next: sums of float32 and activations are off by 2e-6 each (single_layer.py)."""
    native.use_isa(isa)
    with torch.no_grad():
        ours, theirs = run(network(kind, words, bias=bias), "highest")
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.shape == wanted.shape
        assert (got.double() - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("precision", "most"), [("medium", 0.02), ("int8", 0.08)])
def test_rounded_weights_stay_near(isa: str, precision: Precision, most: float) -> None:
    """Operands are off by 2^-9 of themselves, or by a 254th of the largest: after sums of 7 to 33 of them, over seven
    steps, log-probabilities by less than this. A scale or panel that is wrong moves them by tenths."""
    native.use_isa(isa)
    with torch.no_grad():
        ours, theirs = run(network(), precision)
    assert max(float((got - wanted).abs().max()) for got, wanted in zip(ours, theirs, strict=True)) < most


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_bits_alone_together_and_on_any_number_of_threads(precision: Precision) -> None:
    net = network(words=20_000, hidden=200)
    tokens = torch.arange(12) * 37

    def stepped(rows: list[int], threads: int) -> Tensor:
        step = made(net, 12, precision, threads)
        source = step.open_source(inputs(8, 200), inputs(8, REMEMBERED))
        slots = torch.tensor([step.open(source) for _ in rows])
        for k in range(3):
            result, alpha = step.step(tokens[rows] + k, slots)
        return torch.cat([result, alpha], dim=1).clone()

    expected = stepped(list(range(12)), 1)
    for threads in (1, 2, 3):
        assert torch.equal(stepped(list(range(12)), threads), expected)
        assert torch.equal(stepped([5], threads)[0], expected[5])
        assert torch.equal(stepped([8, 2], threads), expected[[8, 2]])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    words=st.integers(1, 300),
    sizes=st.tuples(*[st.integers(1, 70)] * 4),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    isa=st.sampled_from(ISAS or ["generic"]),
    threads=st.integers(1, 3),
)
def test_any_shape(words: int, sizes: tuple[int, ...], lengths: list[int], isa: str, threads: int) -> None:
    native.use_isa(isa)
    torch.manual_seed(0)
    embedded, combined, hidden, remembered = sizes
    lstm = nn.LSTM(embedded + combined, hidden)
    layers = nn.Linear(remembered + hidden, combined), nn.Linear(combined, words)
    net = Network(lstm, torch.randn(words, embedded), *layers)
    step = DecoderStep(lstm, net.embedding, *layers, slots=len(lengths), threads=threads)
    pairs = [(inputs(length, hidden, seed=n), inputs(length, remembered)) for n, length in enumerate(lengths)]
    slots = torch.tensor([step.open(step.open_source(*pair)) for pair in pairs])
    tokens = torch.arange(len(lengths)) % words
    result, alpha = step.step(tokens, slots)
    double = net.double()
    for row, (keys, values) in enumerate(pairs):
        with torch.no_grad():
            fed = torch.zeros(combined).double()
            wanted, weights, *_ = double.step(int(tokens[row]), (keys.double(), values.double()), fed, None)
        assert (result[row] - wanted).abs().max() < 1e-5
        assert (alpha[row, : len(weights)] - weights).abs().max() < 1e-5 and not alpha[row, len(weights) :].any()


def test_beam_search_finds_what_a_loop_in_torch_finds() -> None:
    """Three hypotheses that fork and die: states, what is fed and sources move with them, sources and targets mixed."""
    net = network()
    step = made(net, 3)
    source = sources_of(step, (6,))
    handle, pair = next(iter(source.items()))
    slots = torch.tensor([step.open(handle) for _ in range(3)])
    beam: list[tuple[float, list[int], Tensor, object]] = [(0.0, [2], torch.zeros(COMBINED), None)]
    for _ in range(6):
        candidates: list[tuple[float, list[int], Tensor, object]] = []
        with torch.no_grad():
            for score, words, fed, state in beam:
                result, _, a, after = net.step(words[-1], pair, fed, state)
                candidates += [(score + float(result[w]), [*words, w], a, after) for w in range(WORDS)]
        beam = sorted(candidates, key=lambda c: -c[0])[:3]
    scores, words = torch.tensor([0.0, -torch.inf, -torch.inf]), [[2], [2], [2]]
    for _ in range(6):
        result, _ = step.step(torch.tensor([w[-1] for w in words]), slots)
        best = (result + scores[:, None]).flatten().topk(3)
        parents = best.indices // WORDS
        words = [[*words[int(p)], int(i) % WORDS] for p, i in zip(parents, best.indices, strict=True)]
        scores = best.values.clone()
        step.copy(slots[parents], slots)
    assert words == [found for _, found, _, _ in beam]
    assert torch.allclose(scores, torch.tensor([score for score, *_ in beam]), atol=1e-5)


def test_hypotheses_begin_with_the_state_given() -> None:
    net = network()
    h, c = inputs(2, HIDDEN, seed=3) * 0.3, inputs(2, HIDDEN, seed=4)
    step = made(net, 2)
    pair = next(iter(sources_of(step, (4,)).values()))
    slot = step.open(0, (h, c))
    with torch.no_grad():
        expected, *_ = net.step(8, pair, torch.zeros(COMBINED), (h[:, None], c[:, None]))
    got, _ = step.step(torch.tensor([8]), torch.tensor([slot]))
    assert torch.allclose(got[0], expected, atol=1e-5)
    stacked = network("stack")
    other = made(stacked, 1)
    sources_of(other, (4,))
    states = [State(h[0], c[0]), State(inputs(11), torch.stack([inputs(24), inputs(24, seed=5).exp(), inputs(24)]))]
    other.open(0, states)
    got, _ = other.step(torch.tensor([8]), torch.tensor([0]))
    whole = [State(first[None], second[:, None] if second.dim() == 2 else second[None]) for first, second in states]
    keys, values = other._sources[0]
    with torch.no_grad():
        expected, *_ = stacked.step(8, (keys, values), torch.zeros(COMBINED), whole)
    assert torch.allclose(got[0], expected, atol=1e-5)


def test_sources_and_slots_are_used_again() -> None:
    net = network()
    step = made(net, 2)
    keys = sources_of(step, tuple(range(1, 12)))
    assert sorted(keys) == list(range(11))
    slot, other = step.open(10), step.open(2)
    step.step(torch.tensor([1, 1]), torch.tensor([slot, other]))
    with pytest.raises(RuntimeError, match="all 2 slots"):
        step.open(1)
    with pytest.raises(ValueError, match=r"source 10 still has open hypotheses, in slots \[0\]"):
        step.close_source(10)
    step.close(slot)
    step.close_source(10)
    _, alpha = step.step(torch.tensor([1]), torch.tensor([other]))
    assert alpha.shape == (1, 10) and abs(float(alpha.sum()) - 1) < 1e-6 and not alpha[0, 3:].any()
    for act in (step.close_source, step.open):
        with pytest.raises(ValueError, match="no source 10"):
            act(10)
    assert step.open_source(*keys[0]) == 10
    # A slot that is opened again begins anew.
    again, fresh = step.open(10), made(net, 1)
    fresh.open(fresh.open_source(*keys[0]))
    got, _ = step.step(torch.tensor([3]), torch.tensor([again]))
    assert torch.equal(got, fresh.step(torch.tensor([3]), torch.tensor([0]))[0])


def test_words_ruled_out_and_extreme_scores() -> None:
    net = network(words=300)
    with torch.no_grad():
        net.output.bias[:130] = -torch.inf  # whole panels
        net.output.bias[200] = 90.0
    for isa, precision in itertools.product(ISAS, PRECISIONS):
        native.use_isa(isa)
        step = made(net, 1, precision)
        step.open(step.open_source(inputs(5, HIDDEN) * 1e4, inputs(5, REMEMBERED)))
        result, alpha = step.step(torch.tensor([0]), torch.tensor([0]))
        assert (result[0, :130] == -torch.inf).all() and result[0, 130:].isfinite().all()
        assert abs(float(result[0, 200])) < 1e-6 and float(alpha.max()) == 1.0


def test_poison_stays_in_its_row() -> None:
    net = network()
    for isa, precision in itertools.product(ISAS, PRECISIONS):
        native.use_isa(isa)
        step, clean = made(net, 3, precision), made(net, 3, precision)
        for each in (step, clean):
            source = each.open_source(inputs(5, HIDDEN), inputs(5, REMEMBERED))
            spoilt = each.open_source(inputs(5, HIDDEN), torch.full((5, REMEMBERED), torch.nan))
            for n in range(3):
                each.open(spoilt if n == 1 and each is step else source)
        for _ in range(2):
            found, _ = step.step(torch.arange(3), torch.arange(3))
            expected, _ = clean.step(torch.arange(3), torch.arange(3))
        assert found[1].isnan().all() and torch.equal(found[[0, 2]], expected[[0, 2]])


def test_bad_steps_are_refused_and_change_nothing() -> None:
    step = made(network(), 4)
    sources_of(step)
    for _ in range(3):
        step.open(0)
    step.close(1)
    good = torch.tensor([1, 2]), torch.tensor([0, 2])
    step.step(*good)
    before = step.streams.state(0), step.streams.state(2), step._fed.clone()
    for tokens, slots, words in (
        ([1, WORDS], [0, 2], f"token {WORDS} is outside the vocabulary of {WORDS}"),
        ([-1, 1], [0, 2], "token -1"),
        ([1, 1], [0, 1], "slot 1 is closed"),
        ([1, 1], [0, 4], "slot 4 is out of range"),
        ([1, 1], [2, 2], "slot 2 is named 2 times"),
        ([1], [0, 2], "must both be"),
        ([[1]], [[0]], "must both be"),
        ([1] * 5, [0, 2, 0, 2, 0], "5 slots were named"),
        ([1.0], [0], "expected torch.int64"),
    ):
        with pytest.raises(ValueError, match=words):
            step.step(torch.tensor(tokens), torch.tensor(slots))
        after = step.streams.state(0), step.streams.state(2), step._fed
        assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    result, alpha = step.step(good[0][:0], good[1][:0])  # nobody came
    assert result.shape == (0, WORDS) and alpha.shape == (0, 17)
    step.step(*good)


def test_slots_opened_behind_its_back_are_refused() -> None:
    step = made(network(), 1)
    token, slot = torch.tensor([1]), torch.tensor([step.streams.open()])
    with pytest.raises(ValueError, match="no source to attend to"):  # there has never been one
        step.step(token, slot)
    step.close(0)
    first, second = sources_of(step, (3, 4))
    step.close(step.open(second))
    step.close_source(second)
    step.streams.open()
    with pytest.raises(ValueError, match="no source to attend to"):  # its last one is closed
        step.step(token, slot)
    step.close(0)
    step.open(first)
    step.step(token, slot)


def test_what_does_not_fit_is_refused() -> None:
    net = network()
    for part, words in (
        ({"embedding": torch.randn(WORDS, 4)}, "lstm's input_size is 12"),
        ({"embedding": torch.randn(WORDS + 1, EMBEDDED)}, "output.out_features is 101"),
        ({"embedding": torch.randn(WORDS)}, r"expected \[vocabulary, E\]"),
        ({"embedding": torch.randn(WORDS, EMBEDDED).double()}, "embedding came as torch.float64"),
        ({"combine": nn.Linear(HIDDEN, COMBINED)}, "combine.in_features is 21"),
        ({"combine": nn.Linear(REMEMBERED + HIDDEN, COMBINED).half()}, "combine.weight came as torch.float16"),
        ({"output": nn.Linear(COMBINED + 1, WORDS)}, "output.in_features is 8"),
        ({"slots": 0}, "slots must be"),
        ({"precision": "low"}, "precision must be"),
    ):
        given = {**vars(net), "slots": 2} | part
        with pytest.raises(ValueError, match=words):
            DecoderStep(**given)
    step = made(net)
    for keys, values in (
        ((3, HIDDEN), (2, REMEMBERED)),
        ((3, HIDDEN + 1), (3, REMEMBERED)),
        ((3, HIDDEN), (3, 1)),
        ((0, HIDDEN), (0, REMEMBERED)),
        ((HIDDEN,), (REMEMBERED,)),
    ):
        with pytest.raises(ValueError, match="must be"):
            step.open_source(torch.zeros(keys), torch.zeros(values))
    source = step.open_source(torch.zeros(3, HIDDEN), torch.zeros(3, REMEMBERED))
    with pytest.raises(ValueError, match=r"expected \[21\] and \[21\]"):
        step.open(source, (torch.zeros(2, HIDDEN), torch.zeros(2, HIDDEN + 1)))
    with pytest.raises(ValueError, match="of 3 layers"):
        step.open(source, (torch.zeros(3, HIDDEN), torch.zeros(3, HIDDEN)))
    assert step.open(source) == 0  # none of these took a slot
    with pytest.raises(ValueError, match="slot 1 is closed"):
        step.copy([0], [1])


def test_a_step_makes_nothing_that_stays() -> None:
    step = made(network(), 4)
    sources_of(step)
    slots = torch.tensor([step.open(1) for _ in range(4)])
    tokens = torch.arange(4)
    first = step.step(tokens, slots)
    assert step.step(tokens, slots)[0] is first[0]
    tracemalloc.start()
    step.step(tokens, slots)
    begin, _ = tracemalloc.get_traced_memory()
    for _ in range(50):
        step.step(tokens, slots)
    end, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert end - begin < 1000


def test_weights_are_copies_until_refreshed() -> None:
    net = network()
    step = made(net, 1)
    step.open(step.open_source(inputs(5, HIDDEN), inputs(5, REMEMBERED)))
    token, slot = torch.tensor([1]), torch.tensor([0])
    before = step.streams.state(0)
    expected = step.step(token, slot)[0].clone()

    def again() -> Tensor:
        step.streams.restore(before)
        step._fed.zero_()
        return step.step(token, slot)[0].clone()

    with torch.no_grad():
        net.output.weight.mul_(2)
        net.combine.bias.add_(1)
    assert torch.equal(again(), expected)
    step.refresh()
    assert not torch.equal(again(), expected)
    other = made(net, 1)
    other.open(other.open_source(inputs(5, HIDDEN), inputs(5, REMEMBERED)))
    assert torch.equal(again(), other.step(token, slot)[0])


def test_two_python_threads_with_decoders_of_their_own() -> None:
    net = network(words=5000)
    wrong: list[int] = []

    def work(n: int) -> list[Tensor]:
        step = made(net, 5, threads=2)
        source = step.open_source(inputs(7, HIDDEN, seed=n), inputs(7, REMEMBERED, seed=n))
        slots = torch.tensor([step.open(source) for _ in range(5)])
        return [step.step(torch.arange(5) + k, slots)[0].clone() for k in range(30)]

    expected = [work(n) for n in range(2)]

    def check(n: int) -> None:
        if not all(torch.equal(a, b) for a, b in zip(work(n), expected[n], strict=True)):
            wrong.append(n)

    threads = [threading.Thread(target=check, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
