"""Conversations as numbers: what is read, what a reply looks at, what is to be told."""

import numpy as np
import pytest
import torch

from holdfast.parts.text import tokens
from holdfast.parts.text.conversation import Conversation, Slot, Turn
from holdfast.parts.text.exchanges import BOT, FACTS, IGNORED, USER, Limits, exchanges, in_tokens, spoken
from holdfast.parts.text.spoken_batches import MOST_TURNS, batched, parts_of, pieces_of, steps_of
from holdfast.parts.text.tokens import Vocabulary

TURNS = (
    Turn("user", "one two"),
    Turn("bot", "three"),
    Turn("user", "four five six", facts=(Slot("a_b", "seven"),)),
    Turn("bot", "eight nine"),
    Turn("user", "ten"),
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tokens.learn(["one two three four five six seven eight nine ten a b = ;\n"], "subwords", 260)


def words(vocabulary: Vocabulary, text: str, longest: int = 80) -> list[int]:
    return in_tokens(vocabulary, text, longest).tolist()


def test_every_text_is_there_and_every_reply_has_its_facts(vocabulary: Vocabulary) -> None:
    piece = spoken(vocabulary, TURNS, 80)
    assert piece.turns == 5 and piece.answered == ((0, 5), (2, 6))
    assert piece.kinds == (USER, BOT, USER, BOT, USER, FACTS, FACTS)
    assert piece.texts[5].tolist() == [vocabulary.start]
    assert piece.texts[6].tolist() == words(vocabulary, "a b = seven")


def test_a_reply_looks_at_its_facts_and_the_last_messages(vocabulary: Vocabulary) -> None:
    pieces = [spoken(vocabulary, TURNS[:2], 80), spoken(vocabulary, TURNS, 80)]
    batch = exchanges(pieces, vocabulary.start, Limits(80, 2))
    said = batch.tokens.flatten()[batch.said]
    row = (~batch.outside[2]).sum()
    seen = said[batch.places[2, :row]].tolist()
    expected = [words(vocabulary, text) for text in ("a b = seven", "four five six", "three")]
    assert seen == [token for text in expected for token in text]
    assert batch.ages[2, :row].tolist() == [age for age, text in enumerate(expected) for _ in text]
    assert batch.at.tolist() == [[0, 0], [0, 1], [2, 1]]
    reply = words(vocabulary, "eight nine")
    assert batch.targets[: len(reply), 2].tolist() == reply and (batch.targets[len(reply) :, 2] == IGNORED).all()
    assert batch.before[: len(reply), 2].tolist() == [vocabulary.start, *reply[:-1]]
    assert batch.order[:5, 1].tolist() == [3, 4, 5, 6, 7] and batch.turns.tolist() == [2, 5]


def test_a_reply_that_was_cut_does_not_teach_to_end_there(vocabulary: Vocabulary) -> None:
    batch = exchanges([spoken(vocabulary, TURNS, 4)], vocabulary.start, Limits(4, 3))
    assert batch.lengths.max() == 5  # four tokens and the end
    assert batch.steps[1] == 5 and batch.targets[4, 1] == IGNORED and batch.targets[3, 1] != IGNORED


def test_hidden_facts_are_not_shown(vocabulary: Vocabulary) -> None:
    piece = spoken(vocabulary, TURNS, 80)
    batch = exchanges([piece], vocabulary.start, Limits(80, 1), np.array([False, True]))
    assert batch.lengths[batch.facts].tolist() == [1, 1]
    assert exchanges([piece], vocabulary.start, Limits(80, 1)).lengths[batch.facts].tolist()[1] > 1


def test_a_long_conversation_is_cut_behind_a_reply() -> None:
    turns = [Turn("bot", "hello"), *(Turn("user" if n % 2 == 0 else "bot", str(n)) for n in range(3 * MOST_TURNS))]
    parts = list(parts_of(turns))
    assert [turn for part in parts for turn in part] == turns and len(parts) > 2
    assert all(len(part) <= MOST_TURNS + 1 and part[-1].speaker == "bot" for part in parts[:-1])


def test_batches_hold_every_piece_once_and_enough_messages(vocabulary: Vocabulary) -> None:
    talks = [Conversation(str(n), TURNS[: 2 + n % 4]) for n in range(23)]
    pieces = [piece for one in talks for piece in pieces_of(one, vocabulary, None, 80)]
    for dice in (None, np.random.default_rng(0)):
        found = list(batched(pieces, 6, dice))
        assert sorted(id(one) for batch in found for one in batch) == sorted(map(id, pieces))
        assert (
            sum(sum(len(one.spoken.answered) for one in batch if one.spoken) >= 6 for batch in found) >= len(found) - 1
        )
    whole = steps_of(pieces, None, Limits(80, 3), vocabulary.start)
    assert whole.messages is None and whole.exchanges is not None
    assert len(whole.exchanges.steps) == sum(len(one.spoken.answered) for one in pieces if one.spoken)
    assert steps_of(pieces[:0], None, Limits(80, 3), vocabulary.start) == (None, None)
    assert torch.equal(whole.exchanges.steps, (whole.exchanges.targets != IGNORED).sum(0))
