"""Baselines: by hand, and on the M4 data equal to the organisers' own table."""

import csv
import lzma
from pathlib import Path

import numpy as np
import pytest

from holdfast.parts.series import accuracy, baselines
from holdfast.parts.series.smoothing import exponential_smoothing

NAN = np.nan


def test_naive_and_seasonal_naive_step_over_gaps() -> None:
    history = np.array([[NAN, 1.0, 2.0, 3.0, 4.0, NAN, 6.0], [NAN, NAN, NAN, NAN, NAN, 8.0, NAN]])
    assert baselines.naive(history, 2).tolist() == [[6, 6], [8, 8]]
    assert baselines.seasonal_naive(history, 3, 5).tolist() == [[4, 2, 6, 4, 2], [8, 8, 8, 8, 8]]


def test_naive2_takes_seasons_out_only_where_there_are_some() -> None:
    time = np.arange(36)
    seasonal = (100 + time) * np.array([0.5, 1.0, 1.5, 1.0])[time % 4]
    noise = 100 + np.random.default_rng(3).normal(size=36)
    forecast = baselines.naive2(np.stack([seasonal, noise]), 4, 4)
    np.testing.assert_allclose(forecast[0] / 135, [0.5, 1.0, 1.5, 1.0], rtol=0.02)  # 135: the last level
    assert forecast[1].tolist() == [noise[-1]] * 4


def test_theta_halves_the_trend() -> None:
    line = 10.0 + 2 * np.arange(40)[None]
    change = np.diff(baselines.theta(line, 1, 5)[0])
    np.testing.assert_allclose(change, 1.0, atol=0.05)


def test_exponential_smoothing_finds_trend_and_seasons_and_ignores_what_is_in_front() -> None:
    time = np.arange(60)
    truth = np.exp(0.01 * np.arange(66)) * np.array([50.0, 70, 90, 60, 40, 55])[np.arange(66) % 6]
    noisy = truth[:60] * np.exp(0.02 * np.random.default_rng(4).normal(size=60))
    gappy = np.where((time % 11 == 3) & (time > 12), NAN, noisy)
    alone = exponential_smoothing(noisy[None, 20:], 6, 6)
    padded = np.stack([gappy, np.where(time < 20, NAN, noisy)])
    both = exponential_smoothing(padded, 6, 6)
    np.testing.assert_allclose(both.median[1], alone.median[0], rtol=1e-9)
    np.testing.assert_allclose(both.median, np.tile(truth[60:], (2, 1)), rtol=0.06)  # three times the noise
    quantiles = both.quantiles(np.array([-1.96, 0.0, 1.96]))
    assert (quantiles[..., 0] > 0).all() and (
        (quantiles[..., 0] < truth[60:]) & (quantiles[..., 2] > truth[60:])
    ).mean() > 0.8


def test_exponential_smoothing_takes_very_short_and_flat_series() -> None:
    history = np.array([[NAN, NAN, NAN, 5.0], [NAN, NAN, 0.0, -3.0], [7.0, 7.0, 7.0, 7.0]])
    smoothed = exponential_smoothing(history, 12, 3)
    assert np.isfinite(smoothed.median).all() and np.isfinite(smoothed.spread).all()
    np.testing.assert_allclose(smoothed.median[[0, 2]], [[5] * 3, [7] * 3])


def test_exponential_smoothing_does_not_explode() -> None:
    history = np.exp(np.array([[0.0, 0.1, 0.1, 0.3, 0.9, 2.7, 8.1]]))
    quantiles = exponential_smoothing(history, 1, 40).quantiles(np.array([-1.96, 0.0, 1.96]))
    assert quantiles.max() == pytest.approx(10 * np.exp(8.1))


@pytest.mark.parametrize(
    ("name", "season", "published"),
    [  # sMAPE and MASE from the table of the M4 organisers, Hourly and Weekly rows
        ("Hourly", 24, {"seasonal": (13.912, 1.193), "naive2": (18.383, 2.395), "theta": (18.138, 2.455)}),
        ("Weekly", 1, {"seasonal": (9.161, 2.777), "naive2": (9.161, 2.777), "theta": (9.093, 2.637)}),
    ],
)
def test_m4_table(shared_data: Path, name: str, season: int, published: dict[str, tuple[float, float]]) -> None:
    folder = shared_data / "m4_hourly_weekly"
    history, target = right_aligned(folder / f"{name}-train.csv.xz"), right_aligned(folder / f"{name}-test.csv.xz")
    horizon, scale = target.shape[1], accuracy.seasonal_scale(history, season)
    made = {
        "seasonal": baselines.seasonal_naive(history, season, horizon),
        "naive2": baselines.naive2(history, season, horizon),
        "theta": baselines.theta(history, season, horizon),
    }
    for method, forecast in made.items():
        # theta smooths on a grid of parameters, the organisers with an optimiser: 0.3 % apart on Weekly
        near = 3e-3 if method == "theta" else 1e-4
        assert accuracy.smape(target, forecast) == pytest.approx(published[method][0], rel=near, abs=6e-4)
        assert accuracy.mase(target, forecast, scale) == pytest.approx(published[method][1], rel=near, abs=6e-4)


def right_aligned(path: Path) -> np.ndarray:
    with lzma.open(path, "rt") as file:
        rows = [[float(cell) for cell in row[1:] if cell] for row in list(csv.reader(file))[1:]]
    out = np.full((len(rows), max(map(len, rows))), np.nan)
    for line, row in zip(out, rows, strict=True):
        line[len(line) - len(row) :] = row
    return out
