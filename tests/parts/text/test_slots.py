"""Values in a text and tags over its words, there and back; the likeliest tags against looking at all."""

import itertools

import numpy as np

from holdfast.parts.text.conversation import Slot
from holdfast.parts.text.message_features import words_of
from holdfast.parts.text.slots import (
    Span,
    follows,
    likeliest_tags,
    slots_in,
    spans_in,
    spans_of,
    standing_in,
    tag_names,
    tags_of,
)

TEXT = "A table at Sino's in san jose, for 2 at 2:30; not at 12 or in San José"


def spans(*slots: Slot) -> list[Span]:
    return spans_of(TEXT, words_of(TEXT), slots)


def test_values_are_found_on_borders_of_words_whatever_their_case() -> None:
    assert spans(Slot("where", "San Jose")) == [Span("where", 6, 8)]
    assert spans(Slot("who", "sino")) == [Span("who", 3, 4)]  # the 's stands outside
    assert spans(Slot("who", "Sin"), Slot("when", "tomorrow"), Slot("x", ""), Slot("y", " ")) == []


def test_a_value_stands_wherever_it_stands_and_the_longest_wins() -> None:
    seats, time = Slot("seats", "2"), Slot("time", "2:30")
    assert spans(seats) == [Span("seats", 10, 11), Span("seats", 12, 13)]  # not within 12
    assert spans(seats, time) == [Span("seats", 10, 11), Span("time", 12, 15)]
    assert spans(Slot("a", "at Sino"), Slot("b", "Sino's in")) == [Span("b", 3, 6)]
    assert spans(Slot("first", "sino"), Slot("second", "Sino"))[0].name == "first"


def test_white_space_around_a_value_does_not_matter_and_signs_are_no_pattern() -> None:
    assert spans(Slot("time", " 2:30 ")) == [Span("time", 12, 15)]
    assert spans(Slot("time", "2.30")) == []


def test_tags_there_and_back_as_the_text_says_it() -> None:
    words, slots = words_of(TEXT), [Slot("where", "SAN JOSE"), Slot("seats", "2"), Slot("gone", "Rome")]
    tags = tags_of(TEXT, words, slots)
    assert tags[5:13] == ["O", "B-where", "I-where", "O", "O", "B-seats", "O", "B-seats"]
    back = [Slot("where", "san jose"), Slot("seats", "2"), Slot("seats", "2")]
    assert slots_in(TEXT, words, tags) == back == standing_in(TEXT, words, slots)


def test_names_may_hold_a_dash_and_neighbours_stay_apart() -> None:
    assert tag_names(["a-b", "c"]) == ["O", "B-a-b", "I-a-b", "B-c", "I-c"]
    found = spans_in(["B-a-b", "I-a-b", "B-a-b", "I-c", "O", "I-c"])
    assert found == [Span("a-b", 0, 2), Span("a-b", 2, 3), Span("c", 3, 4), Span("c", 5, 6)]


def legal(path: tuple[int, ...]) -> bool:
    return all(tag % 2 or not tag or before in (tag, tag - 1) for before, tag in zip((0, *path), path, strict=False))


def test_the_likeliest_tags_are_those_of_looking_at_all() -> None:
    rng = np.random.default_rng(0)
    repaired = 0
    for _ in range(60):
        scores = rng.normal(size=(4, 5))
        scores[:, 2::2] += 1  # often illegal
        paths = [path for path in itertools.product(range(5), repeat=4) if legal(path)]
        best = max(paths, key=lambda path: sum(scores[place, tag] for place, tag in enumerate(path)))
        np.testing.assert_array_equal(likeliest_tags(scores), best)
        repaired += tuple(scores.argmax(axis=1)) != best
    assert 10 < repaired < 60  # both ways were gone


def test_what_follows() -> None:
    assert follows(np.array([0, 1, 2, 2, 3, 4, 1]))
    for wrong in ([2], [0, 4], [1, 4], [3, 2], [1, 2, 0, 2]):
        assert not follows(np.array(wrong))
