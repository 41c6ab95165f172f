"""What is special about language: probabilities that add up, caches, streams of text, files of any size."""

import dataclasses
import io
import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.apps.language import LanguageModel
from holdfast.parts.text.corpus import Text
from holdfast.parts.text.language_network import Dropout, LanguageNetwork, Penalties
from holdfast.parts.text.ngrams import count_bigrams, unigrams_of
from holdfast.parts.text.passages import Passage, texts_of
from holdfast.parts.text.surprise import Cache, Reader, compare_caches
from holdfast.parts.text.tokens import Vocabulary, learn
from holdfast.parts.text.writing import Shown
from holdfast.training.application import Recipe, collect
from holdfast.training.model import Model

SMALL = LanguageModel(unit="words", width=32, layers=1, back=30, dropout=0.1, dropout_words=0.0, weight_drop=0.1)
QUICK = Recipe(steps=250, batch=16, learning_rate=3e-2, validate_every=50)


def stories(count: int, seed: int = 0) -> list[Text]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit(stories(300), recipe=QUICK)


def reader(of: Cache | None = None, rate: float = 0.0) -> tuple[Reader, Vocabulary]:
    vocabulary = model().codec.vocabulary
    return Reader(model().net, vocabulary.start, of, rate), vocabulary


def test_it_beats_pairs_of_words() -> None:
    scores = model().evaluate(stories(40, seed=5))
    perplexity = {who: row["perplexity"] for who, row in scores.items()}
    assert perplexity["holdfast"] < perplexity["bigrams"] < perplexity["unigrams"]


def test_surprise_is_the_log_of_what_was_expected() -> None:
    one, vocabulary = reader()
    other, _ = reader()
    tokens = vocabulary.encode("the fox sees the sea .\nthe fox")
    by_one: list[float] = []
    for token in tokens.tolist():
        expected = one.expect()
        assert float(expected.exp().sum()) == pytest.approx(1, abs=1e-4)
        by_one.append(-float(expected[token]))
        one.follow(token)
    np.testing.assert_allclose(other.read(tokens), by_one, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.1])
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
@settings(max_examples=15, deadline=None)
def test_reading_does_not_depend_on_the_pieces(rate: float, cuts: list[int]) -> None:
    if rate:
        cuts = []  # it learns after each piece
    vocabulary = model().codec.vocabulary
    tokens = vocabulary.encode("".join(story.content for story in stories(6, seed=4)))
    whole = reader(Cache(9), rate)[0].read(tokens)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    one, _ = reader(Cache(9), rate)
    parts = [one.read(tokens[a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


def test_the_cache_by_hand() -> None:
    torch.manual_seed(0)
    h, followed = torch.randn(5, 4), torch.tensor([3, 1, 3, 2, 3])
    log_p = torch.log(torch.tensor([0.2, 0.3, 0.4]))
    cache = Cache(size=2, share=0.25, flatness=0.5)
    found = cache.mixed(log_p, cache.alone(h, followed, before=2))
    for n, place in enumerate((2, 3, 4)):
        seen = slice(place - 2, place)
        weights = (0.5 * h[seen] @ h[place]).softmax(0)
        cached = weights[followed[seen] == followed[place]].sum()
        assert float(found[n].exp()) == pytest.approx(0.75 * float(log_p[n].exp()) + 0.25 * float(cached), abs=1e-6)


def test_caches_are_compared_in_one_reading() -> None:
    one, vocabulary = reader(Cache())
    tokens = vocabulary.encode("".join(story.content for story in stories(6, seed=4)))
    caches = [Cache(9, 0.3, 0.5), Cache(9, 0.1, 0.5), Cache(4, 0.1, 2.0), Cache(30, 0.0, 1.0)]
    found = compare_caches(one.net, one.start, tokens, caches)
    alone = [float(reader(cache)[0].read(tokens).mean()) for cache in caches]
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    assert len(set(alone)) == 4


def test_the_cache_expects_what_it_scores() -> None:
    one, vocabulary = reader(Cache(6, 0.3, 0.5))
    other, _ = reader(Cache(6, 0.3, 0.5))
    tokens = vocabulary.encode("the fox sees the sea .\nthe fox sees the moon .\n")
    by_one: list[float] = []
    for token in tokens.tolist():
        expected = one.expect()
        assert float(expected.exp().sum()) == pytest.approx(1, abs=1e-4)
        by_one.append(-float(expected[token]))
        one.follow(token)
    np.testing.assert_allclose(other.read(tokens), by_one, atol=1e-4)


def test_going_on_to_learn_helps_on_another_kind_of_text_and_leaves_the_model_alone() -> None:
    before = {name: p.clone() for name, p in model().net.state_dict().items()}
    vocabulary = model().codec.vocabulary
    tokens = vocabulary.encode("sea moon sea moon " * 1500)
    still, learning = reader()[0].read(tokens), reader(None, 0.5)[0].read(tokens)
    assert learning[3000:].mean() < 0.8 * still[3000:].mean()
    assert all(torch.equal(before[name], p) for name, p in model().net.state_dict().items())


def test_bigrams_by_hand_and_that_they_add_up() -> None:
    vocabulary = learn(["a b a b a c"], "words", 9)
    tokens = vocabulary.encode("a b a b a c")
    bigrams, unigrams = count_bigrams([tokens], len(vocabulary), int(tokens[-1])), unigrams_of(vocabulary.counts)
    a, b = vocabulary.numbers["a"], vocabulary.numbers["b"]
    found = np.exp(-bigrams.surprise(np.array([a]), np.array([b]), unigrams))
    assert found[0] == pytest.approx((2 + 2 * unigrams[b]) / (3 + 2))  # a is followed three times, by two kinds
    everything = np.arange(len(vocabulary))
    for before in everything:
        total = np.exp(-bigrams.surprise(np.full_like(everything, before), everything, unigrams)).sum()
        assert total == pytest.approx(1)


# --- writing ---


def test_same_dice_same_text_other_dice_other_text() -> None:
    asked = [Text("x", "the fox ")]
    one, again = model().predict(asked)[0].text, model().predict(asked)[0].text
    assert one == again and len(one.split()) > 50
    assert one != model().using(sampling_seed=1).predict(asked)[0].text


def test_the_likeliest_text_is_a_sentence() -> None:
    written = model().using(temperature=0.0, length=8).predict([Text("x", "the old ")])[0].text
    assert written.split()[0] == "crab"


def test_writing_ends_before_a_stop() -> None:
    written = model().using(stop=(".",)).predict([Text("x", "the fox ")])[0].text
    assert "." not in written and len(written.split()) > 2
    assert model().using(length=500).predict([Text("x", "the fox ")])[0].text.startswith(written)


@pytest.mark.parametrize("stop", [(), ("cd",), ("d e", "never")])
def test_what_is_shown_is_the_text_until_a_stop(stop: tuple[str, ...]) -> None:
    vocabulary = learn(["ab cd ef ☃ 日本\n"], "subwords", 257)
    text = "ab cd ef ☃ 日本 ab"
    shown = Shown(vocabulary, stop)
    pieces: list[str] = []
    for token in vocabulary.encode(text).tolist():
        pieces.append(shown.push(token))
        assert "\ufffd" not in pieces[-1]
        if shown.stopped:
            break
    else:
        pieces.append(shown.flush())
    ends = [text.index(word) for word in stop if word in text]
    assert "".join(pieces) == (text[: min(ends)] if ends else text)


def test_the_unknown_is_never_written() -> None:
    app = dataclasses.replace(SMALL, vocabulary=12)  # most words are unknown to it
    small = app.fit(stories(60), recipe=dataclasses.replace(QUICK, steps=30))
    assert "<unk>" not in small.using(temperature=2.0, top_p=1.0).predict([Text("x", "the ")])[0].text


# --- the stream ---


@pytest.mark.parametrize("answer", ["continue", "surprise"])
@given(cuts=st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=15, deadline=None)
def test_a_stream_in_any_pieces_says_what_predict_says(answer: str, cuts: list[int]) -> None:
    used = model().using(answer=answer, length=30)
    text = "".join(one.content for one in stories(2, seed=3))[:120]
    edges = [0, *sorted(cuts), len(text)]
    outputs: list[Passage] = []
    stream = used.stream()
    for a, b in itertools.pairwise(edges):
        outputs += stream.push(text[a:b])
        heard, stream = stream.state(), used.stream()
        stream.restore(heard)
    (joined,) = texts_of([*outputs, *stream.flush()])
    (whole,) = used.predict([Text("", text)])
    assert joined.text == whole.text
    if answer == "surprise":
        assert joined.bits is not None and whole.bits is not None
        np.testing.assert_allclose(joined.bits, whole.bits, atol=1e-4)


def test_the_state_of_a_stream_does_not_grow_with_the_text() -> None:
    stream, sizes = model().using(answer="surprise").stream(), []
    for _ in range(3):
        for story in stories(400, seed=8):
            list(stream.push(story.content))
        sizes.append(len(stream.state()))
    assert max(sizes) == min(sizes)


def test_bytes_that_are_cut_in_a_letter_are_put_together() -> None:
    class Slowly(io.RawIOBase):
        def __init__(self, raw: bytes) -> None:
            self.raw = raw

        def read1(self, _: int) -> bytes:
            first, self.raw = self.raw[:1], self.raw[1:]
            return first

    pieces = model().application.pieces(Slowly("große ☃".encode()))  # pyright: ignore[reportArgumentType]
    assert "".join(pieces) == "große ☃"


# --- pages and pictures ---


def test_the_page_of_surprise_holds_the_text(tmp_path: Path) -> None:
    used = model().using(answer="surprise")
    outputs = used.predict([Text("a <b>", "the fox sees the sea .\n")])
    used.application.formats[".html"](outputs, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "a &lt;b&gt;" in page and "bits" in page and "fox" in page
    rows = used.rows(outputs)
    assert [row["token"].strip() for row in rows[:3]] == ["the", "fox", "sees"]
    assert sum(row["bits"] for row in rows) == pytest.approx(float(outputs[0].bits.sum()), abs=1e-2)


def test_perplexity_is_that_of_the_rows() -> None:
    texts = stories(5, seed=2)
    rows = model().rows(model().using(answer="surprise").predict([Text("", "".join(t.content for t in texts))]))
    scores = model().evaluate(texts)["holdfast"]
    assert scores["perplexity"] == pytest.approx(2 ** np.mean([row["bits"] for row in rows]), rel=1e-3)


def test_a_stream_collects_like_any_other() -> None:
    (whole,) = texts_of(list(collect(model().stream(), ["the fox ", "sees "])))
    assert whole.text == model().predict([Text("", "the fox sees ")])[0].text


def test_penalties_are_added_while_training_alone() -> None:
    """Zero of a still h of zeros; and as the paper has them."""
    torch.manual_seed(0)
    net = LanguageNetwork(torch.ones(20, dtype=torch.int64), 8, 8, 1, Dropout(), 0, Penalties(2.0, 3.0))
    h, targets = torch.randn(5, 2, 8), torch.randint(20, (5, 2))
    with torch.no_grad():
        plain, penalised = float(net.eval().loss(h, targets)), float(net.train().loss(h, targets))
        size, change = float(h.square().mean()), float((h[1:] - h[:-1]).square().mean())
        assert penalised - plain == pytest.approx(10 * (2 * size + 3 * change), rel=1e-5)
        nothing = torch.zeros(5, 2, 8)
        assert float(net.train().loss(nothing, targets)) == pytest.approx(float(net.eval().loss(nothing, targets)))
        assert math.isfinite(float(net.train().loss(h[:1], targets[:1])))  # of one token there is no change


@pytest.mark.parametrize("negatives", [10, 40, 4096])
def test_more_negatives_than_tokens_are_all_of_them(negatives: int) -> None:
    """Half of them are taken always; a small vocabulary, of which some tokens never came, has fewer."""
    counts = torch.tensor([*range(30), *([0] * 20)])
    torch.manual_seed(0)
    net = LanguageNetwork(counts, 8, 8, 1, Dropout(), negatives)
    h, targets = torch.randn(12, 1, 8), torch.randint(30, (12, 1))
    with torch.no_grad():
        sampled, full = float(net.train().loss(h, targets)), float(net.eval().loss(h, targets))
    assert math.isfinite(sampled) and (sampled == pytest.approx(full, rel=1e-6)) == (negatives > 50)


def test_sampled_words_leave_one_dense_gradient_of_the_embedding() -> None:
    """What was read and what was sampled are added up; the optimiser must not take it for a sparse table."""
    torch.manual_seed(0)
    counts = torch.arange(40, 0, -1)
    net = LanguageNetwork(counts, 8, 8, 1, Dropout(), negatives=12)
    tokens = torch.randint(0, 40, (7, 3))
    h, _ = net(tokens[:-1])
    net.loss(h, tokens[1:]).backward()
    gradient = net.embedding.weight.grad
    assert gradient is not None and not gradient.is_sparse
    assert (gradient[tokens.unique()].abs().sum(1) > 0).all()
