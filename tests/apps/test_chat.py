"""What is special about chat: copying what was never said, many conversations at once, either half alone."""

import io
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest

from holdfast.apps.chat import Chatbot
from holdfast.parts.errors import DataError
from holdfast.parts.text.chatting import Said
from holdfast.parts.text.conversation import Conversation, Slot, Turn
from holdfast.training.application import Recipe
from holdfast.training.model import Model

SMALL = Chatbot(
    vocabulary=400, width=48, hidden=64, members=1, message_width=32, message_hidden=32, dropout=0.1, dropout_words=0.0
)
QUICK = Recipe(steps=260, batch=32, learning_rate=6e-3, validate_every=65)


def talks(count: int, seed: int = 0) -> list[Conversation]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit(talks(400), recipe=QUICK)


def test_it_learns_all_three() -> None:
    scores = model().evaluate(talks(40, seed=5))
    ours, templates = scores["holdfast"], scores["templates"]
    assert ours["accuracy"] > 0.95 and ours["slot_f1"] > 0.9
    assert ours["BLEU"] > 70 and ours["BLEU"] > templates["BLEU"] > scores["most frequent"]["BLEU"]
    assert ours["slot_error"] < 0.2


def test_a_price_that_was_never_said_is_copied() -> None:
    asked = Turn("user", "I need a blue coat, please.", facts=(Slot("price", "7316 euros"),))
    (answer,) = model().predict([Conversation("1", (asked,))])
    assert "7316 euros" in answer.reply and "blue coat" in answer.reply
    understood = answer.answers[0].understood
    assert understood.intent == "order" and set(understood.slots) == {Slot("colour", "blue"), Slot("garment", "coat")}


def test_conversations_do_not_disturb_each_other_and_parts_come_at_once() -> None:
    asked = [tuple(t for t in one.turns if t.speaker == "user") for one in talks(3, seed=8)]
    alone = [model().predict([Conversation(str(n), turns)])[0] for n, turns in enumerate(asked)]
    stream, mixed = model().stream(), []
    for place in range(max(map(len, asked))):
        for name, turns in enumerate(asked):
            if place < len(turns):
                parts = list(stream.push(Said(str(name), turns[place])))
                assert len(parts) > 2  # it is said piece by piece
                mixed += parts
    together = model().rows(mixed)
    wanted = [row for one in alone for row in model().rows([one])]
    assert sorted(map(str, together)) == sorted(map(str, wanted))


def test_what_was_really_said_takes_the_place_of_the_reply() -> None:
    first, second = Turn("user", "May I come on Friday?"), Turn("user", "Thank you!")
    stream = model().stream()
    for said in (first, Turn("bot", "No."), second):
        last = list(stream.push(Said("1", said)))
    whole = model().predict([Conversation("1", (first, Turn("bot", "No."), second))])[0]
    assert "".join(part.reply for part in last) == whole.reply
    assert len(whole.answers) == 2


def test_a_state_holds_all_conversations_and_does_not_grow() -> None:
    stream, sizes = model().stream(), []
    for _ in range(4):
        list(stream.push(Said("1", Turn("user", "When do you open?"))))
        list(stream.push(Said("1", Turn("bot", "We are here from nine to six."))))
        sizes.append(len(stream.state()))
    assert sizes[1] == sizes[2] == sizes[3]
    list(stream.push(Said("2", Turn("user", "Goodbye."))))
    other = model().stream()
    other.restore(stream.state())
    for name in ("1", "2"):
        asked = Said(name, Turn("user", "I need a red suit, please."))
        ours, theirs = list(stream.push(asked)), list(other.push(asked))
        assert [p.reply for p in ours] == [p.reply for p in theirs]
        assert ours[0].answers[0].understood == theirs[0].answers[0].understood is not None


def test_what_was_said_before_is_understood_with_a_message() -> None:
    """The same words after another question, in a stream and in a file; the bot's own reply is a question, too."""
    heard = [Turn("user", "I need a suit."), Turn("bot", "At what time may I expect you?"), Turn("user", "Nine.")]
    (whole,) = model().predict([Conversation("1", tuple(heard))])
    (alone,) = model().predict([Conversation("1", (heard[2],))])
    assert whole.answers[1].understood != alone.answers[0].understood
    stream = model().stream()
    parts = [part for turn in heard for part in stream.push(Said("1", turn))]
    assert parts[-1].answers[0].understood == whole.answers[1].understood
    own = model().stream()
    (*_, reply) = itertools.accumulate(part.reply for part in own.push(Said("1", heard[0])))
    last = next(iter(own.push(Said("1", heard[2])))).answers[0].understood
    said = [Conversation("1", (heard[0], Turn("bot", reply), heard[2]))]
    assert last == model().predict(said)[0].answers[1].understood


def test_n_best_are_different_and_ranked() -> None:
    asked = [Conversation("1", (Turn("user", "May I come on Friday?", facts=(Slot("time", "9:15"),)),))]
    (answer,) = model().using(n_best=3).predict(asked)
    replies = answer.answers[0].replies
    assert len({one.text for one in replies}) == len(replies) > 1
    assert [one.score for one in replies] == sorted((one.score for one in replies), reverse=True)
    rows = model().using(n_best=3).rows([answer])
    assert [row["rank"] for row in rows] == list(range(1, len(replies) + 1))


def test_intents_alone_and_replies_alone() -> None:
    quick = Recipe(steps=12, batch=16, validate_every=6)
    labelled = [Conversation(str(n), one.turns[:1]) for n, one in enumerate(talks(40))]
    understanding = SMALL.fit(labelled, recipe=quick)
    assert set(understanding.rows(understanding.predict(labelled[:1]))[0]) == {
        "conversation",
        "message",
        "intent",
        "confidence",
        "slots",
    }
    assert set(understanding.evaluate(labelled)) == {"holdfast", "naive Bayes"}
    plain = [Conversation(one.name, tuple(Turn(t.speaker, t.text) for t in one.turns)) for one in talks(20)]
    writing = SMALL.fit(plain, recipe=quick)
    assert set(writing.rows(writing.predict(plain[:1]))[0]) == {"conversation", "message", "reply"}
    assert "perplexity" in writing.evaluate(plain)["holdfast"]
    with pytest.raises(DataError, match="no answers to compare with"):
        writing.evaluate(labelled)


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        SMALL.fit([Conversation("1", (Turn("user", "a"),)), Conversation("2", (Turn("user", "b"),))])
    with pytest.raises(DataError, match="one conversation alone"):
        SMALL.fit(talks(1))


def test_a_line_of_text_is_answered_with_text() -> None:
    pieces = model().application.pieces(io.BytesIO(b"When do you open?\n"))
    said = "".join(one.reply for piece in pieces for one in model().stream().push(piece))
    assert said == "We are here from nine to six."
