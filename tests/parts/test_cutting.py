"""Cutting and blending: what is chosen where the user does not say."""

import dataclasses

import numpy as np
import pytest

from holdfast.parts.series.backtest import Asked, apart
from holdfast.parts.series.blending import best_share, blended
from holdfast.parts.series.cutting import Wish, choose_cut, choose_segment
from holdfast.parts.series.frequency import Frequency
from holdfast.parts.series.series import Series
from holdfast.parts.series.windows import Stack

STEP = Frequency("step", 1)
ANY = Wish(None, None, None, None, (), "auto", "season", (), (), ())


def hourly(count: int) -> list[Series]:
    """Plain steps with a day and a week in them."""
    rng = np.random.default_rng(11)
    time = np.arange(900)
    day, week = np.sin(2 * np.pi * time / 24), np.where(time // 24 % 7 < 5, 1.0, 0.4)
    return [Series(f"s{n}", 0, STEP, np.exp(2 + day * week + 0.1 * rng.normal(size=900))) for n in range(count)]


def test_day_and_week_are_found_without_a_calendar() -> None:
    cut = choose_cut(hourly(3), dataclasses.replace(ANY, horizon=48))
    assert cut.lags == (168, 24) and cut.season == 24 and cut.segment == 24 and cut.context == 336
    assert cut.trust[1] == 0.0 and cut.logarithmic  # the week is the best first guess


def test_no_season_is_found_in_a_random_walk() -> None:
    walks = [Series(f"s{n}", 0, STEP, np.random.default_rng(n).normal(size=400).cumsum()) for n in range(5)]
    cut = choose_cut(walks, dataclasses.replace(ANY, horizon=13))
    assert cut.lags == () and cut.season == 1 and not cut.logarithmic
    assert choose_cut(walks, dataclasses.replace(ANY, seasons=(52,), season=1)).lags == (52,)


@pytest.mark.parametrize(
    ("horizon", "season", "segment"), [(48, 24, 24), (18, 12, 6), (13, 52, 13), (8, 4, 4), (14, 7, 7)]
)
def test_segments_divide_the_season_and_waste_little(horizon: int, season: int, segment: int) -> None:
    assert choose_segment(horizon, season) == segment


def test_first_guesses_repeat_the_last_season_and_step_over_gaps() -> None:
    values = np.arange(1.0, 13.0)
    values[10] = np.nan  # the second of the last three
    cut = choose_cut(
        [Series("a", 0, STEP, values)], dataclasses.replace(ANY, horizon=4, seasons=(3,), transform="none")
    )
    guesses = Stack(cut, [Series("a", 0, STEP, values)]).guesses(np.array([0]), np.array([12]))
    assert guesses[0, :4, 0].tolist() == [12, 12, 12, 12]
    assert guesses[0, :4, 1].tolist() == [10, 8, 12, 10]


def test_before_its_first_value_a_series_shows_nothing() -> None:
    rng = np.random.default_rng(2)
    covariates = rng.normal(size=(40, 2)) + 5
    series = [Series(f"s{n}", 0, STEP, rng.normal(size=40), covariates[:, :1], covariates[:, 1:]) for n in range(2)]
    wish = dataclasses.replace(ANY, horizon=4, context=12, season=1, past=("rain",), future=("price",))
    history = Stack(choose_cut(series, wish), series).windows(np.array([1]), np.array([3])).history[0]
    assert (history[:-3] == 0).all() and (history[-3:, 1] == 1).all() and (history[-3:, 2:] != 0).all()


def test_the_blend_takes_the_better_half_and_ties_go_to_the_network() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(300, 5))
    asked = Asked(truth, np.ones(300))
    network, classic = (truth + rng.normal(size=truth.shape) * spread for spread in (1.0, 0.5))
    share = best_share(network, classic, asked)
    assert 0.1 <= share <= 0.3  # independent errors: weights 1 to 4 by variance
    assert best_share(network, network, asked) == 1.0
    moved = blended(np.stack([network - 1, network, network + 1], axis=-1), classic, 0.25)
    np.testing.assert_allclose(moved[..., 1], 0.25 * network + 0.75 * classic)
    np.testing.assert_allclose(np.diff(moved, axis=-1), 1.0)


def test_windows_apart() -> None:
    assert apart(np.array([0, 0, 0, 4, 7, 7]), np.array([10, 12, 22, 5, 5, 16]), 6) == 3 + 1 + 2
