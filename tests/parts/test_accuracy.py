"""Accuracy: the measures by hand."""

import numpy as np
import pytest

from holdfast.parts.series import accuracy

NAN = np.nan


def test_smape_and_mase_by_hand() -> None:
    target = np.array([[10.0, 20.0, NAN], [4.0, 0.0, 8.0]])
    forecast = np.array([[8.0, 20.0, 5.0], [4.0, 0.0, 2.0]])
    first, second = 200 * (2 / 18) / 2, 200 * (6 / 10) / 3
    assert accuracy.smape(target, forecast) == pytest.approx((first + second) / 2)
    assert accuracy.mase(target, forecast, np.array([2.0, 4.0])) == pytest.approx((0.5 + 0.5) / 2)
    assert accuracy.mase(target, forecast, np.array([0.0, 4.0])) == pytest.approx(0.5)


def test_seasonal_scale_skips_padding_and_gaps() -> None:
    history = np.array([[NAN, 1.0, 5.0, 2.0, NAN, 4.0], [NAN, NAN, NAN, NAN, 3.0, 10.0]])
    assert accuracy.seasonal_scale(history, 2).tolist() == [1.5, 7.0]  # the second is shorter than a season
    assert accuracy.seasonal_scale(history, 1).tolist() == [3.5, 7.0]


def test_coverage_pinball_and_owa() -> None:
    target = np.array([[1.0, 2.0, NAN, 4.0]])
    assert accuracy.coverage(target, np.zeros((1, 4)), np.full((1, 4), 2.0)) == pytest.approx(2 / 3)
    median_only = accuracy.scaled_pinball(target, np.full((1, 4, 1), 3.0), [0.5], np.array([2.0]))
    assert median_only == pytest.approx((2 + 1 + 1) / 3 / 2)
    assert accuracy.owa(9.0, 1.0, 18.0, 4.0) == pytest.approx(0.375)
