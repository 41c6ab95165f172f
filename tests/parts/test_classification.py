"""Scores against arithmetic by hand, and a linear classifier that finds what is linear."""

import numpy as np
import pytest

from holdfast.parts import classification

TRUTH = np.array([0, 0, 0, 1, 1, 2])
GUESS = np.array([0, 1, 0, 1, 1, 0])


def test_scores_by_hand() -> None:
    assert classification.accuracy(TRUTH, GUESS) == pytest.approx(4 / 6)
    np.testing.assert_array_equal(classification.confusion(TRUTH, GUESS, 3), [[2, 1, 0], [0, 2, 0], [1, 0, 0]])
    each = [2 * 2 / (3 + 3), 2 * 2 / (2 + 3), 0.0]
    assert classification.macro_f1(TRUTH, GUESS, 3) == pytest.approx(np.mean(each))
    assert classification.macro_f1(TRUTH, GUESS, 5) == pytest.approx(np.mean(each))  # classes nobody met


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    truth = np.array([0, 1, 1, 1])  # sure 0.9 and right half the time; sure 0.7 and always right
    assert classification.calibration_error(truth, probabilities) == pytest.approx((0.4 * 2 + 0.3 * 2) / 4)


def test_the_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([0.5, 0.7, 0.9], size=20_000)
    truth = np.array([rng.choice(3, p=row) for row in honest])
    too_sure = classification.tempered(honest, 1 / 2.0)
    assert classification.best_temperature(truth, too_sure) == pytest.approx(2.0, rel=0.06)  # two steps of the search
    np.testing.assert_allclose(classification.tempered(too_sure, 2.0), honest, atol=1e-6)
    unsure = classification.tempered(honest, 4.0)
    assert classification.best_temperature(truth, unsure) == pytest.approx(1 / 4, rel=0.06)


def test_the_linear_classifier_beats_the_majority_where_something_is_linear() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(loc=5.0, scale=[1.0, 10.0, 0.1, 1.0], size=(600, 4))
    y = np.argmax((x - 5) / [1, 10, 0.1, 1] @ rng.normal(size=(4, 3)), axis=1)
    found = classification.fit_linear(x[:400], y[:400], 3)
    probabilities = found.probabilities(x[400:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert classification.accuracy(y[400:], probabilities.argmax(axis=1)) > 0.95
    again = classification.fit_linear(x[:400], y[:400], 3)
    np.testing.assert_array_equal(found.weights, again.weights)


def test_a_better_baseline_is_told_plainly(caplog: pytest.LogCaptureFixture) -> None:
    table = {"holdfast": {"accuracy": 0.8, "macro_f1": 0.7}, "linear": {"accuracy": 0.7, "macro_f1": 0.6}}
    classification.say_plainly(table, "activity")
    assert not caplog.records
    classification.say_plainly({**table, "linear": {"accuracy": 0.9, "macro_f1": 0.6}}, "activity")
    assert "activity: linear is as good as this model or better here (accuracy 0.900 against 0.800)" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    perfect = {"accuracy": 1.0, "macro_f1": 1.0}
    classification.say_plainly({"holdfast": perfect, "linear": perfect}, "activity")
    assert not caplog.records
