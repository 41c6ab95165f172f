"""Naive Bayes against arithmetic by hand."""

import numpy as np
import pytest

from holdfast.parts import settings
from holdfast.parts.text.intent_baseline import SMOOTHING, NaiveBayes, count_words

LABELLED = [(["lost", "card"], 2), (["lost", "lost", "pin"], 2), (["new", "card"], 0), ([], 0), (["new"], 2)]


def test_probabilities_by_hand() -> None:
    model = count_words(LABELLED, 3)
    assert model.words == ("card", "lost", "new", "pin") and model.majority() == 2
    s = SMOOTHING
    zero = 2 / 5 * (1 + s) / (2 + 4 * s) * s / (2 + 4 * s)  # card, lost
    two = 3 / 5 * (1 + s) / (6 + 4 * s) * (3 + s) / (6 + 4 * s)
    found = model.probabilities([["card", "lost", "unheard"], []])
    np.testing.assert_allclose(found[0], [zero / (zero + two), 0, two / (zero + two)], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.4, 0, 0.6], atol=1e-6)


def test_nobody_asked_and_nothing_learned() -> None:
    assert count_words(LABELLED, 3).probabilities([]).shape == (0, 3)
    np.testing.assert_allclose(count_words([], 2).probabilities([["a"]]), [[0.5, 0.5]])


def test_it_is_kept_in_a_model_file() -> None:
    model, arrays = count_words(LABELLED, 3), {}
    back = settings.from_json(NaiveBayes, settings.to_json(model, arrays), arrays)
    np.testing.assert_array_equal(back.probabilities([["pin"]]), model.probabilities([["pin"]]))
    zero, two = 2 / 5 * 0.1 / 2.4, 3 / 5 * 1.1 / 6.4
    assert model.probabilities([["pin"]])[0, 2] == pytest.approx(two / (zero + two))
