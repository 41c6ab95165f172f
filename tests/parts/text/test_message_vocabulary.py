"""Facts of a few messages by hand; what is not known is left out."""

import dataclasses
import math

import numpy as np
import pytest

from holdfast.parts import settings
from holdfast.parts.errors import DataError
from holdfast.parts.text.conversation import Asked, Slot, Turn, asked
from holdfast.parts.text.message_features import Grams, hashed, letters_of
from holdfast.parts.text.message_vocabulary import (
    IGNORED,
    MOST_HEARD,
    MOST_LETTERS,
    GramTable,
    MessageFacts,
    end_of,
    heard_words,
    learn_grams,
    learn_messages,
)

from .messages import MESSAGES, TURNS

TABLE = GramTable(np.array([3, 8, 20]), np.array([1.0, 2.0, 4.0], dtype=np.float32))


def test_weights_are_a_vector_of_length_one_over_known_grams() -> None:
    places, weights = TABLE.weigh(Grams(np.array([1, 3, 20, 99]), np.array([5, 3, 1, 1])))
    np.testing.assert_array_equal(places, [0, 2])
    once, thrice = 4.0, 1 + math.log(3)
    np.testing.assert_allclose(weights, np.array([thrice, once]) / math.hypot(once, thrice), rtol=1e-6)
    assert weights.dtype == np.float32
    assert [len(found) for found in TABLE.weigh(Grams(np.array([4]), np.array([1])))] == [0, 0]
    empty = GramTable(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    assert [len(found) for found in empty.weigh(Grams(np.array([4]), np.array([1])))] == [0, 0]


def test_grams_of_few_messages_are_not_known() -> None:
    table = learn_grams([np.array([2, 5]), np.array([5]), np.array([5, 9]), np.array([9])], 2)
    np.testing.assert_array_equal(table.codes, [5, 9])
    np.testing.assert_allclose(table.idf, [1 + math.log(5 / 4), 1 + math.log(5 / 3)], rtol=1e-6)


def test_facts_of_a_few_messages() -> None:
    facts = learn_messages(MESSAGES)
    assert facts.words == ("a", "book", "in", "jose", "san", "table", "?", "card", "is", "my")  # the bot's are not met
    assert facts.intents == ("card", "table") and facts.outside == "oos" and facts.classes == 3
    assert facts.slots == ("where", "who") and facts.threshold == 0
    assert hashed("p", "san jose") in facts.phrases.codes and hashed("p", "new card") not in facts.phrases.codes
    assert set(letters_of("card")) <= set(facts.letters.codes.tolist())
    np.testing.assert_array_equal(facts.baseline.messages, [2, 3, 1])
    other = learn_messages(MESSAGES, outside=None, fewest=1, most_words=3)
    assert other.intents == ("card", "oos", "table") and other.outside is None and len(other.words) == 3
    assert hashed("p", "new card") in other.phrases.codes


def test_a_message_as_the_network_reads_it() -> None:
    facts = learn_messages(MESSAGES)
    one = facts.message(Asked(TURNS[3]))
    assert one.words == ("book", "a", "table", "at", "sino", "in", "san", "jose") and one.intent == 1
    np.testing.assert_array_equal(one.tags, [0, 0, 0, 0, 3, 0, 1, 2])  # O, B-where, I-where, B-who, I-who
    assert np.square(one.weights).sum() == pytest.approx(1, rel=1e-5)  # phrases and letters, a half each
    assert one.grams.max() < len(facts.phrases) + len(facts.letters)
    assert one.weights.dtype == np.float32 and (one.grams >= len(facts.phrases)).any()


def test_what_nobody_said_and_what_training_did_not_have_is_not_learned_from() -> None:
    facts = learn_messages(MESSAGES)
    assert facts.message(Asked(TURNS[5])).tags.tolist() == [IGNORED] * 6 and facts.message(Asked(TURNS[5])).intent == 1
    assert facts.message(Asked(TURNS[6])).intent == IGNORED and facts.message(Asked(TURNS[7])).intent == 2
    fresh = facts.message(Asked(Turn("user", "Paint Rome", "paint", (Slot("what", "Paint"), Slot("where", "rome")))))
    assert fresh.intent == IGNORED and fresh.tags.tolist() == [0, 1]
    empty = facts.message(Asked(Turn("user", "  ", "card", ())))
    assert empty.words == ("",) and empty.intent == 0 and empty.tags.tolist() == [IGNORED]


def test_a_message_after_what_was_said_before_it() -> None:
    said = [
        Turn("user", "Book a table", "table", ()),
        Turn("bot", "In Rome or in San Jose?"),
        Turn("user", "San Jose", "table", (Slot("where", "san jose"),)),
        Turn("bot", "At which time?"),
        Turn("user", "Rome", "table", (Slot("where", "Rome"),)),
    ]
    facts = learn_messages(asked(said, 2), fewest=1)
    assert facts.context == 2 and {"time", "or"} <= set(facts.words)  # the bot's words are known, too
    first, second, third = map(facts.message, asked(said, 2))
    assert first.words == ("book", "a", "table") and first.roles.tolist() == [0, 0, 0]
    assert second.words == ("book", "a", "table", "in", "rome", "or", "in", "san", "jose", "?", "san", "jose")
    assert second.roles.tolist() == [2] * 3 + [1] * 7 + [0] * 2  # the user's, the bot's, its own
    assert second.tags.tolist() == [IGNORED] * 10 + [1, 2]
    assert third.words[:2] == ("san", "jose") and third.tags.tolist() == [IGNORED] * 6 + [1]
    heard = {int(place) - len(facts.phrases) - len(facts.letters) for place in third.grams}
    codes = facts.heard.codes[sorted(place for place in heard if place >= 0)]
    assert hashed("B", "which time") in codes and hashed("u", "jose") in codes and hashed("b", "jose") not in codes
    without = learn_messages(asked(said, 0), fewest=1)
    assert without.context == 0 and not len(without.heard)
    np.testing.assert_array_equal(
        without.message(asked(said, 2)[2]).grams, without.message(Asked(said[4])).grams
    )  # what it was not taught to hear it does not hear


def test_of_long_turns_the_end_is_heard() -> None:
    text = " ".join(f"word{number}" for number in range(MOST_HEARD + 5)) + "?"
    assert heard_words(Turn("bot", text))[0] == "word6" and len(heard_words(Turn("bot", text))) == MOST_HEARD
    assert end_of(text).startswith("word6 ") and end_of(end_of(text)) == end_of(text)
    assert end_of("  short ") == "  short "
    assert len(end_of("x" * 5000)) == MOST_LETTERS and heard_words(Turn("user", "x" * 5000)) == ["x" * MOST_LETTERS]


def test_only_known_words_are_remembered() -> None:
    facts = learn_messages(MESSAGES)
    np.testing.assert_array_equal(facts.spelling("card"), facts.spelling("card"))
    assert len(facts.spelling("cardz")) and len(facts.spelling("card")) == len(letters_of("card"))
    assert set(facts.known_spellings) == {"card"}


def test_facts_are_kept_in_a_model_file() -> None:
    facts, arrays = dataclasses.replace(learn_messages(MESSAGES), threshold=0.25), {}
    back = settings.from_json(MessageFacts, settings.to_json(facts, arrays), arrays)
    assert back.words == facts.words and back.threshold == 0.25 and back.outside == "oos"
    np.testing.assert_array_equal(back.message(Asked(TURNS[3])).weights, facts.message(Asked(TURNS[3])).weights)
    never = learn_messages(MESSAGES, outside=None)  # then nothing is rejected
    assert settings.from_json(MessageFacts, settings.to_json(never, arrays), arrays).threshold == -math.inf


def test_a_file_from_before_confidence_was_made_honest_still_loads() -> None:
    arrays: dict[str, np.ndarray] = {}
    known = settings.to_json(dataclasses.replace(learn_messages(MESSAGES), temperature=0.5), arrays)
    assert settings.from_json(MessageFacts, known, arrays).temperature == 0.5
    del known["temperature"]
    assert settings.from_json(MessageFacts, known, arrays).temperature == 1.0


def test_nothing_to_learn_from_is_an_error() -> None:
    for turns in ([], [Turn("user", "hello")], [Turn("user", "hello", "oos")], [Turn("bot", "hello", "card")]):
        with pytest.raises(DataError, match="no message of a user"):
            learn_messages(asked(turns, 0))
