"""Text to tokens and back, wherever the text is cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.parts.errors import DataError
from holdfast.parts.text.tokens import LINE, UNKNOWN, Unit, encoded, learn

STORY = "The fox sees the sea.\nThe fox, at night, sees  a boät — 3 times!\n\nThe end\n"
UNITS: tuple[Unit, ...] = ("characters", "words", "subwords")


@pytest.mark.parametrize("unit", UNITS)
def test_what_was_learned_comes_back(unit: Unit) -> None:
    vocabulary = learn([STORY], unit, 400)
    found = vocabulary.decode(vocabulary.encode(STORY))
    assert found == (" ".join(STORY.split(" ")) if unit != "words" else STORY.replace("  ", " "))
    assert int(vocabulary.counts.sum()) == len(vocabulary.encode(STORY))


@pytest.mark.parametrize("unit", UNITS)
@given(cuts=st.lists(st.integers(0, len(STORY)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_tokens_do_not_depend_on_where_a_text_is_cut(unit: Unit, cuts: list[int]) -> None:
    vocabulary = learn([STORY], unit, 300)
    edges = [0, *sorted(cuts), len(STORY)]
    pieces = [STORY[a:b] for a, b in itertools.pairwise(edges)]
    together = np.concatenate(list(encoded(vocabulary, pieces)))
    assert together.tolist() == vocabulary.encode(STORY).tolist()


@pytest.mark.parametrize("unit", UNITS)
def test_spelled_tokens_are_the_text(unit: Unit) -> None:
    vocabulary, text = learn([STORY], unit, 300), "The fox sees the fox\nThe end\n"
    spelled = "".join(vocabulary.spelled(vocabulary.encode(text)))
    assert spelled.replace(" \n", "\n") == text


def test_words_are_counted_as_wikitext_counts_them() -> None:
    vocabulary = learn(["a b\n", " c \n \n"], "words", 99)
    tokens = vocabulary.encode(" a b \n\nc\n")
    assert [vocabulary.pieces[n] for n in tokens] == ["a", "b", LINE, LINE, "c", LINE]


def test_a_small_vocabulary_keeps_what_is_frequent_and_counts_the_rest_as_unknown() -> None:
    vocabulary = learn(["a a a b b c d"], "words", 3)
    assert set(vocabulary.pieces) == {"a", "b", UNKNOWN}
    assert vocabulary.counts[vocabulary.numbers[UNKNOWN]] == 2
    assert (np.diff(vocabulary.counts) <= 0).all()  # the most frequent first
    assert vocabulary.encode("c zebra a").tolist() == [vocabulary.unknown, vocabulary.unknown, vocabulary.numbers["a"]]


def test_subwords_know_every_letter() -> None:
    vocabulary = learn([STORY], "subwords", 300)
    assert vocabulary.unknown is None
    assert vocabulary.decode(vocabulary.encode("日本 ☃ \x01")) == "日本 ☃ \x01"


@pytest.mark.parametrize("unit", UNITS)
def test_a_text_begins_behind_the_end_of_a_line(unit: Unit) -> None:
    vocabulary = learn([STORY], unit, 300)
    assert vocabulary.decode([vocabulary.start]) == "\n"


def test_nothing_to_learn_from_is_said() -> None:
    for unit in UNITS:
        with pytest.raises(DataError):
            learn(["", ""] if unit != "words" else [" ", "  "], unit, 300)
