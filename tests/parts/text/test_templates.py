"""The baseline of a bot, and the scores of what it says."""

import pytest

from holdfast.parts.text.conversation import Conversation, Slot, Turn
from holdfast.parts.text.reply_scores import has, judge_replies
from holdfast.parts.text.templates import learn_templates


def talk(*pairs: tuple[tuple[Slot, ...], str]) -> Conversation:
    turns = [turn for facts, said in pairs for turn in (Turn("user", "?", facts=facts), Turn("bot", said))]
    return Conversation("1", tuple(turns))


def test_the_usual_reply_with_other_values() -> None:
    rome, bonn = ((Slot("day", day), Slot("city", city)) for city, day in (("Rome", "Friday"), ("Bonn", "Monday")))
    learned = learn_templates([talk((rome, "To rome on Friday."), (bonn, "To Bonn on Monday."), (rome, "Well."))])
    oslo = (Slot("city", "Oslo {0}"), Slot("day", "May"))
    assert learned.reply(oslo) == "To Oslo {0} on May."
    assert learned.reply((Slot("price", "3 euros"),)) == "3 euros"
    again = learn_templates([talk(((), "Hello."), ((), "Hello."), (rome, "Bye."))])
    assert again.reply(()) == again.reply((Slot("never met", ""),)) == "Hello."
    assert learn_templates([]).reply(()) == ""


def test_scores_of_replies() -> None:
    facts = [(Slot("city", "Rome"), Slot("day", "Friday")), (Slot("time", "3"),)]
    truth = ["You go to Rome .", "It is 3 in the afternoon ."]
    scores = judge_replies(truth, truth, facts)
    assert scores["BLEU"] == pytest.approx(100.0) and scores["slot_error"] == 0.0
    wrong = judge_replies(["You go to Romeo .", "It is 13 in the afternoon ."], truth, facts)
    assert wrong["slot_error"] == 1.0 and 0 < wrong["BLEU"] < 100
    assert judge_replies(["a a a a", "a a"], ["b", "c"], [(), ()])["distinct_1"] == pytest.approx(1 / 6)
    assert judge_replies(["a b a b", "b a"], ["b", "c"], [(), ()])["distinct_2"] == pytest.approx(2 / 6)
    assert "slot_error" not in judge_replies(["a"], ["b"], [()])


def test_a_value_is_not_a_part_of_a_word() -> None:
    assert has("at 3 pm.", "3 PM") and has("(Rome)", "rome") and not has("13", "3") and not has("Romeo", "Rome")
