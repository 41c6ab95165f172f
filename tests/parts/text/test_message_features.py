"""Words keep their places; hashes are the same everywhere."""

import numpy as np

from holdfast.parts.text.message_features import (
    Grams,
    counted,
    hashed,
    letters_of,
    phrases_and_letters,
    phrases_of,
    spelled,
    words_of,
)

TEXT = "  Rosie’s CAFÉ\tat 11:30am?"


def test_words_stand_where_they_stand_in_the_text() -> None:
    words = words_of(TEXT)
    assert [word.text for word in words] == ["rosie", "'s", "café", "at", "11", ":", "30am", "?"]
    assert [TEXT[start:end] for _, start, end in words] == ["Rosie", "’s", "CAFÉ", "at", "11", ":", "30am", "?"]
    assert words_of(" \n\t") == []


def test_one_word_in_two_of_unicodes_spellings_is_one() -> None:
    assert spelled("Cafe\u0301") == spelled("CAFÉ") == "café"
    assert spelled("ﬁn") == "fin"


def test_letters_of_a_word_between_its_borders() -> None:
    grams = ["<ca", "cat", "at>", "<cat", "cat>", "<cat>"]
    assert letters_of("cat") == tuple(hashed("c", gram) for gram in grams)
    assert letters_of("a") == (hashed("c", "<a>"),)
    assert letters_of("") == ()
    assert len(letters_of("aaaaaa")) == 6 + 5 + 4  # as often as they come


def test_phrases_are_words_and_neighbours_with_the_ends() -> None:
    pairs = ["< my", "my card", "card >"]
    assert phrases_of(["my", "card"]) == [*(hashed("w", w) for w in ("my", "card")), *(hashed("p", p) for p in pairs)]
    assert phrases_of([]) == [hashed("p", "< >")]


def test_hashes_are_those_of_every_process_and_tell_kinds_apart() -> None:
    assert hashed("w", "card") == 0xBA808C0D
    assert hashed("w", "card") != hashed("c", "card")
    assert hashed("w", "\ud800") < 2**32  # half a letter, as broken JSON has it


def test_counts_belong_to_rising_hashes() -> None:
    found = counted([7, 3, 7, 7, 2**32 - 1])
    np.testing.assert_array_equal(found.codes, [3, 7, 2**32 - 1])
    np.testing.assert_array_equal(found.counts, [1, 3, 1])
    empty = counted([])
    assert isinstance(empty, Grams) and empty.codes.dtype == np.int64 and not len(empty.codes)


def test_both_kinds_of_a_message() -> None:
    phrases, letters = phrases_and_letters(["aa", "bb", "aa"])
    assert phrases.counts.sum() == 3 + 4 and letters.counts.sum() == 3 * 3
    assert dict(zip(phrases.codes.tolist(), phrases.counts.tolist(), strict=True))[hashed("w", "aa")] == 2
