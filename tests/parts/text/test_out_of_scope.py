"""Scores and thresholds against arithmetic by hand."""

import math

import numpy as np
import pytest

from holdfast.parts.text.out_of_scope import choose_threshold, fit_scores, separation

NONE = np.empty(0)


def test_fit_is_a_probability_or_the_odds_against_what_is_out_of_scope() -> None:
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    logits = np.log(chances) + np.array([[5], [0], [900]])  # of any height
    np.testing.assert_allclose(fit_scores(logits, 3), [0.5, 0.7, 0.7])
    np.testing.assert_allclose(fit_scores(logits, 2), np.log([0.5 / 0.2, 0.2 / 0.7, 0.2 / 0.7]))


def test_the_wanted_share_stays_in() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, 41) / 40)
    for keep, stay in ((0.95, 38), (0.949, 38), (1.0, 40), (0.9, 36), (0.0, 1)):
        assert (scores >= choose_threshold(scores, NONE, keep)).sum() == stay
    assert choose_threshold(NONE, scores) == -math.inf


def test_a_threshold_lies_where_it_tells_best_apart() -> None:
    inside, outside = np.array([0.5, 0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3])
    assert 0.3 < choose_threshold(inside, outside, 0.5) <= 0.5  # all are told apart: none of scope is given away
    assert choose_threshold(inside, np.array([0.1, 0.6, 0.6]), 0.5) == 0.7  # worth one of scope
    assert choose_threshold(inside, np.array([0.1, 0.6, 0.6]), 1.0) == 0.5  # were it allowed


def test_separation_by_hand() -> None:
    assert separation(np.array([1.0, 2.0]), np.array([0.0, 1.0, 3.0])) == pytest.approx((1 + 0.5 + 2) / 6)
    assert math.isnan(separation(NONE, np.array([1.0])))
