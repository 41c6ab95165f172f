"""Beam search against looking at everything, and what its penalties and limits promise."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from holdfast.parts.text import beam
from holdfast.parts.text.beam import Begin, Found, Search, repeating, search_all
from holdfast.parts.text.translation_network import Dropout, Encoded, Sizes, TranslationNetwork
from tests.engine.single_layer import needs_native

pytestmark = needs_native

WORDS, END, TIME, LIMIT = 5, 2, 3, 4


@pytest.fixture
def net() -> TranslationNetwork:
    torch.manual_seed(3)
    made = TranslationNetwork(WORDS, Sizes(6, 8, 1, 1), Dropout()).eval()
    torch.nn.init.normal_(made.embedding.weight, std=2.0)  # unlike hypotheses
    torch.nn.init.normal_(made.combine.weight)
    return made


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam, "SPARE", 1)  # with three tokens in the source and one each: four


def sources(count: int) -> list[torch.Tensor]:
    dice = torch.Generator().manual_seed(4)
    return [torch.randint(WORDS, (length, 1), generator=dice) for length in [TIME, 2, 5, 1][:count]]


def begin_of(encoded: Encoded) -> Begin:
    return Begin(
        encoded.source.keys[0], encoded.source.values[0], list(zip(encoded.h[:, 0], encoded.c[:, 0], strict=True))
    )


@torch.no_grad()
def searched(net: TranslationNetwork, search: Search, count: int = 1) -> list[list[Found]]:
    begins = [begin_of(net.encode(source, torch.tensor([len(source)]))) for source in sources(count)]
    return search_all(net.step(count * search.beam), begins, END, search)


@torch.no_grad()
def everything(net: TranslationNetwork, search: Search) -> Iterator[Found]:
    """Every translation of up to LIMIT tokens, as the training side sees it."""
    encoded = net.encode(sources(1)[0], torch.tensor([TIME]))
    others = [token for token in range(WORDS) if token != END]
    step = net.step(1)
    source = step.open_source(*begin_of(encoded)[:2])
    for length in range(LIMIT + 1):
        for said in itertools.product(others, repeat=length):
            slot = step.open(source, begin_of(encoded).states)
            total, looks = 0.0, list[np.ndarray]()
            for before, after in itertools.pairwise([END, *said, END]):
                log_probabilities, alpha = step.step(torch.tensor([before]), torch.tensor([slot]))
                total += float(log_probabilities[0, after])
                looks.append(alpha[0].numpy().copy())
            step.close(slot)
            yield Found(said, total, search.score(total, np.stack(looks)), np.stack(looks))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 0.0), (0.6, 0.4)])
def test_a_wide_beam_finds_what_looking_at_everything_finds(net: TranslationNetwork, alpha: float, beta: float) -> None:
    search = Search(beam=400, best=9, length_penalty=alpha, coverage_penalty=beta, longest=1.0)
    wanted = sorted(everything(net, search), key=lambda one: -one.score)[:9]
    (found,) = searched(net, search)
    for got, want in zip(found, wanted, strict=True):
        assert got.tokens == want.tokens
        assert got.score == pytest.approx(want.score, abs=1e-5)
        np.testing.assert_allclose(got.alpha, want.alpha, atol=1e-5)


def test_one_hypothesis_takes_the_likeliest_token_each_time(net: TranslationNetwork) -> None:
    (found,) = searched(net, Search(beam=1, longest=1.0))
    encoded = net.encode(sources(1)[0], torch.tensor([TIME]))
    said = [END]
    while len(said) <= LIMIT:
        a = net(encoded, torch.tensor(said).unsqueeze(1))[-1, 0]
        token = int((net.embedding.weight @ a + net.bias).argmax())
        if token == END:
            break
        said.append(token)
    assert found[0].tokens == tuple(said[1:])


def test_together_is_alone(net: TranslationNetwork) -> None:
    search = Search(beam=3, best=3)
    together = searched(net, search, 4)
    for number, source in enumerate(sources(4)):
        with torch.no_grad():
            begin = begin_of(net.encode(source, torch.tensor([len(source)])))
        (alone,) = search_all(net.step(3), [begin], END, search)
        assert [one.tokens for one in alone] == [one.tokens for one in together[number]]
        assert [one.score for one in alone] == pytest.approx([one.score for one in together[number]], abs=1e-5)
        assert all(one.alpha.shape == (len(one.tokens) + 1, len(source)) for one in alone)


def test_the_decoder_is_empty_afterwards(net: TranslationNetwork) -> None:
    step = net.step(2)
    with torch.no_grad():
        begin = begin_of(net.encode(sources(1)[0], torch.tensor([TIME])))
    first, second = (search_all(step, [begin], END, Search(beam=2)) for _ in range(2))
    assert [one.tokens for one in first[0]] == [one.tokens for one in second[0]]


def test_lengths_and_repetition_are_limited(net: TranslationNetwork) -> None:
    net.bias.data[END] = 50.0  # it would say nothing
    (found,) = searched(net, Search(beam=4, shortest=3, longest=1.0))
    assert len(found[0].tokens) == 3
    net.bias.data[END] = -50.0  # it would never end
    (found,) = searched(net, Search(beam=4, longest=3.0))
    assert len(found[0].tokens) == 3 * TIME + 1
    (found,) = searched(net, Search(beam=4, best=4, longest=3.0, no_repeat=2))
    for one in found:
        pairs = list(itertools.pairwise(one.tokens))
        assert len(set(pairs)) == len(pairs) > 5


def test_runs_that_would_come_again() -> None:
    assert repeating([1, 2, 3, 1, 2], 3) == [3]
    assert repeating([1, 2, 1], 2) == [2]
    assert repeating([1, 2], 1) == [1, 2]
    assert repeating([1], 3) == []


def test_scores_by_hand() -> None:
    """Wu et al. 2016, equation 14, for three steps over two tokens."""
    alpha = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], dtype=np.float32)
    assert Search(length_penalty=0.0).score(-6.0, alpha) == -6
    assert Search(length_penalty=1.0).score(-6.0, alpha) == pytest.approx(-6 / (8 / 6))
    both = Search(length_penalty=2.0, coverage_penalty=0.5).score(-6.0, alpha)
    assert both == pytest.approx(-6 / (8 / 6) ** 2 + 0.5 * np.log(0.75))


def test_a_diverse_beam_goes_its_own_ways(net: TranslationNetwork) -> None:
    """The first is the greedy one; the others begin with other tokens, and P is what it is without the cost."""
    search = Search(beam=4, best=4, longest=1.0, diversity=100.0)
    (found,) = searched(net, search)
    (greedy,) = searched(net, Search(beam=1, longest=1.0))
    firsts = [(*one.tokens, END)[0] for one in found]
    assert len(set(firsts)) == len(found) == 4
    assert greedy[0].tokens in [one.tokens for one in found]
    exact = {one.tokens: one.log_probability for one in everything(net, search)}
    for one in found:
        assert one.log_probability == pytest.approx(exact[one.tokens], abs=1e-5)
    alike = searched(net, Search(beam=4, best=4, longest=1.0, diversity=1e-9))[0]
    assert {one.tokens for one in alike} == {greedy[0].tokens}
    together = searched(net, search, count=3)
    assert [one.tokens for one in together[0]] == [one.tokens for one in found]
