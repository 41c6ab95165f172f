"""Scores against arithmetic by hand."""

import pytest

from holdfast.parts.text.conversation import Slot
from holdfast.parts.text.message_scores import intent_scores, slot_scores, understood_scores
from holdfast.parts.text.understanding import Understood

TRUTH = ["a", "a", "b", "b", "c", "oos", "oos", "oos"]
LIKELIEST = ["a", "b", "b", "b", "a", "a", "b", "b"]
TAKEN = ["a", "b", None, "b", None, None, "b", None]
SURE = [0.5] * 8


def test_intents_by_hand() -> None:
    found = intent_scores(TRUTH, LIKELIEST, TAKEN, SURE, "oos")
    f1 = [2 * 1 / (2 + 2), 2 * 2 / (2 + 3), 0]
    assert found == pytest.approx(
        {
            "accuracy": 3 / 5,
            "macro_f1": sum(f1) / 3,
            "kept": 3 / 5,
            "accepted_accuracy": 2 / 5,
            "rejected": 2 / 3,
            "rejected_rightly": 2 / 4,
            "calibration_error": 0.5 - 3 / 8,  # sure 0.5, and right three times of eight
        }
    )


def test_scores_that_nothing_is_known_of_are_not_given() -> None:
    always = {"calibration_error": 0.25}
    found = intent_scores(["a"], ["a"], ["a"], [0.75], "oos")
    assert found == {"accuracy": 1, "macro_f1": 1, "kept": 1, "accepted_accuracy": 1} | always
    assert intent_scores(["oos"], ["a"], ["a"], [0.25], "oos") == {"rejected": 0, "rejected_rightly": 0} | always
    assert intent_scores(["oos"], ["oos"], ["oos"], [1.0], None)["accuracy"] == 1
    assert intent_scores([], [], [], [], "oos") == {}


def test_what_was_understood_is_judged_by_its_likeliest_intent() -> None:
    found = [Understood(taken, 0.5, ((likeliest, 0.5),), ()) for likeliest, taken in zip(LIKELIEST, TAKEN, strict=True)]
    assert understood_scores(TRUTH, found, "oos") == intent_scores(TRUTH, LIKELIEST, TAKEN, SURE, "oos")
    assert understood_scores(["a"], [Understood(None, 0.0, (), ())], None)["accuracy"] == 0


def test_slots_are_right_with_name_and_whole_value() -> None:
    a, b = Slot("where", "San Jose"), Slot("seats", "2")
    found = slot_scores([[a, b], [b, b], []], [[a, Slot("seats", "2 or")], [b], [Slot("who", "2")]])
    assert found == pytest.approx({"slot_precision": 2 / 4, "slot_recall": 2 / 4, "slot_f1": 4 / 8})
    assert slot_scores([[a]], [[]]) == {"slot_precision": 0.0, "slot_recall": 0.0, "slot_f1": 0.0}
    uneven = slot_scores([[b]], [[b, b, a]])
    assert uneven == pytest.approx({"slot_precision": 1 / 3, "slot_recall": 1, "slot_f1": 2 / 4})
