"""What is special about translation: order, n-best, empty, short and long lines, references, words that are copied."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.apps.translate import Translator
from holdfast.parts.errors import DataError
from holdfast.parts.text.pairs import Pair
from holdfast.training.application import Recipe
from holdfast.training.model import Model

SMALL = Translator(
    vocabulary=400, width=32, hidden=48, dropout=0.1, dropout_words=0.0, bpe_dropout=0.0, copy=True, beam=3
)
QUICK = Recipe(steps=250, batch=32, learning_rate=1e-2, validate_every=50)


def pairs(count: int, seed: int = 0) -> list[Pair]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit(pairs(1500), recipe=QUICK)


def test_it_learns_another_order_of_words() -> None:
    scores = model().evaluate(pairs(60, seed=5))
    assert scores["holdfast"]["BLEU"] > 80 > scores["word by word"]["BLEU"] > scores["copy"]["BLEU"]
    assert scores["holdfast"]["chrF"] > scores["word by word"]["chrF"]


def test_members_write_together_and_are_kept(tmp_path: Path) -> None:
    app = dataclasses.replace(SMALL, members=2)
    two = app.fit(pairs(300), recipe=dataclasses.replace(QUICK, steps=20, validate_every=20))
    assert sum(p.numel() for p in two.net.parameters()) == 2 * sum(p.numel() for p in two.net.members[0].parameters())
    asked = [Pair(pair.source) for pair in pairs(5, seed=2)]
    two.save(tmp_path / "two.safetensors")
    again = holdfast.load(tmp_path / "two.safetensors").predict(asked)
    assert [one.text for one in two.predict(asked)] == [one.text for one in again]
    assert two.stream().push([asked[0].source])[0].text == again[0].text


def test_the_alignment_crosses_where_the_order_does() -> None:
    (answer,) = model().predict([Pair("the red fox sees a boat .")])
    assert answer.text == "la volpa ruza un barko vidas ."
    links = {written: read for read, written in answer.best.links}
    assert (links[1], links[2], links[4]) == (2, 1, 5)
    assert answer.best.attention.shape == (len(answer.best.pieces), len(answer.pieces))


def test_empty_short_and_long_lines_keep_their_place() -> None:
    words = [pair.source for pair in pairs(3, seed=2)]
    lines = ["", words[0], "   ", "fox", " ".join(words * 30), "\t", words[1]]
    answers = model().predict([Pair(line) for line in lines])
    assert [answer.source for answer in answers] == lines
    assert [bool(answer.text) for answer in answers] == [False, True, False, True, True, False, True]
    for line, answer in zip(lines, answers, strict=True):
        assert model().predict([Pair(line)])[0].text == answer.text
    assert [row["text"] for row in model().rows(answers)] == [answer.text for answer in answers]


def test_letters_that_were_never_met_are_read() -> None:
    (answer,) = model().predict([Pair("日本 ☃ \u0000 the fox")])
    assert isinstance(answer.text, str)


def test_n_best_are_sorted_distinct_and_begin_with_the_best() -> None:
    asked = [Pair(pair.source) for pair in pairs(20, seed=4)]
    ways = model().using(n_best=6).predict(asked)
    for one, best in zip(ways, model().using(beam=6).predict(asked), strict=True):
        texts, scores = [way.text for way in one.hypotheses], [way.score for way in one.hypotheses]
        assert len(set(texts)) == len(texts) > 1 and scores == sorted(scores, reverse=True)
        assert one.text == best.text
    rows = model().rows(ways[:1])
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


def test_the_confidence_is_the_mean_log_probability() -> None:
    used = model().using(length_penalty=0.0)
    (answer,) = used.predict([Pair("the red fox sees a boat .")])
    assert answer.best.confidence == pytest.approx(answer.best.score / (len(answer.best.pieces) + 1))
    strange = used.predict([Pair("moon moon often the the")])[0]
    assert strange.best.confidence < answer.best.confidence <= 0


def test_a_number_and_a_name_are_copied() -> None:
    asked = [Pair("the red Zorblax sees a boat .")]
    with_copy, without = model().predict(asked)[0].text, model().using(copy=False).predict(asked)[0].text
    assert "Zorblax" in with_copy and "Zorblax" not in without


def test_the_decoder_s_precision_changes_little() -> None:
    asked = [Pair(pair.source) for pair in pairs(30, seed=6)]
    exact = [one.text for one in model().predict(asked)]
    for precision in ("medium", "int8"):
        said = [one.text for one in model().using(decoder_precision=precision).predict(asked)]
        assert sum(a == b for a, b in zip(exact, said, strict=True)) >= 27


def test_every_translation_of_a_source_is_a_reference() -> None:
    (answer,) = model().predict([Pair("the red fox sees a boat .")])
    right, wrong = Pair(answer.source, answer.text), Pair(answer.source, "something else entirely , my friend")
    assert model().evaluate([wrong, right])["holdfast"]["BLEU"] == pytest.approx(100)
    with pytest.raises(DataError, match="no line has a translation"):
        model().evaluate([Pair("a")])


def test_lines_become_a_text_file(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("the fox sees a boat .\n\nthe moon .\n")
    outputs = model().predict(source)
    model().application.formats[".txt"](outputs, tmp_path / "b.txt")
    lines = (tmp_path / "b.txt").read_text().split("\n")
    assert len(lines) == 4 and lines[0] == "la volpa un barko vidas ." and lines[1] == lines[3] == ""


def test_training_needs_translations_and_enough_of_them() -> None:
    for few in ([Pair("a"), Pair("b")], [Pair("a", "x")]):
        with pytest.raises(DataError):
            SMALL.fit(few, recipe=QUICK)


def test_without_input_feeding_it_learns_too() -> None:
    small = dataclasses.replace(SMALL, input_feeding=False).fit(pairs(1500), recipe=QUICK)
    assert small.evaluate(pairs(40, seed=5))["holdfast"]["BLEU"] > 40
