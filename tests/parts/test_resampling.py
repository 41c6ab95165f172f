"""The resampler: exact where nothing is to be done, faithful where the rate changes, the same whatever the chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.parts.errors import DataError
from holdfast.parts.sensors.resampling import Resampler, on_grid, resample


def waves(times: np.ndarray, frequency: float) -> np.ndarray:
    """[time, 2] a sine and a shifted cosine."""
    return np.stack([np.sin(2 * np.pi * frequency * times), np.cos(2 * np.pi * frequency * times + 0.3)], axis=1)


def test_the_same_rate_changes_nothing() -> None:
    times = 7.25 + np.arange(500) / 50
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    grid, samples = resample(times, values, Resampler(50, 3, gap=1.0))
    np.testing.assert_allclose(grid, times, atol=1e-9)
    np.testing.assert_allclose(samples, values, atol=1e-6)  # float32


@pytest.mark.parametrize("incoming", [20.0, 25.0, 47.3, 50.02, 100.0, 512.0])
@pytest.mark.parametrize("frequency", [1.0, 5.0, 8.0])
def test_a_wave_keeps_its_shape(incoming: float, frequency: float) -> None:
    times = np.arange(0, 20, 1 / incoming)
    grid, samples = resample(times, waves(times, frequency), Resampler(50, 2, gap=1.0))
    inside = (grid > 0.7) & (grid < 19)  # at the ends the filter sees one side only
    # 8 Hz of the 9 that 20 samples per second hold lies on the filter's slope; measured 0.0015 there, 0.002 at most
    np.testing.assert_allclose(samples[inside], waves(grid, frequency)[inside], atol=0.003)


@pytest.mark.parametrize("frequency", [30.0, 40.0, 90.0])
def test_what_the_new_rate_cannot_hold_is_gone(frequency: float) -> None:
    times = np.arange(0, 20, 1 / 200)
    _, samples = resample(times, waves(times, frequency), Resampler(50, 2, gap=1.0))
    assert np.abs(samples[50:-50]).max() < 0.001  # without a filter it would come out at full height, as an alias


def test_trembling_time_stamps_do_little_harm() -> None:
    times = np.arange(0, 20, 1 / 50)
    rng = np.random.default_rng(1)
    late = times + rng.uniform(-0.1, 0.1, len(times)) / 50
    grid, samples = resample(late, waves(late, 5.0), Resampler(50, 2, gap=1.0))
    inside = (grid > 0.7) & (grid < 19)
    # a sinc over uneven samples without counting in samples is off by 0.21 here
    assert np.abs(samples - waves(grid, 5.0))[inside].max() < 0.05


def test_a_clock_that_drifts_is_followed() -> None:
    times = np.cumsum(1 / np.linspace(48, 52, 1000))
    grid, samples = resample(times, waves(times, 3.0), Resampler(50, 2, gap=1.0))
    inside = slice(50, -50)
    np.testing.assert_allclose(samples[inside], waves(grid, 3.0)[inside], atol=0.003)


def test_a_short_gap_is_a_straight_line_and_a_long_one_a_new_stretch() -> None:
    times = np.concatenate([np.arange(0, 4, 0.02), np.arange(4.5, 8, 0.02), np.arange(10.01, 13, 0.02)])
    resampler = Resampler(50, 1, gap=1.0)
    grid, samples = resample(times, times[:, None] * 2.0, resampler)
    assert (resampler.filled, resampler.split) == (1, 1)
    jumps = np.flatnonzero(np.diff(grid) > 0.03)
    assert len(jumps) == 1
    assert grid[jumps[0] + 1] == pytest.approx(10.01)  # the new stretch begins with its own first sample
    inside = (grid > 3.9) & (grid < 4.6)
    np.testing.assert_allclose(samples[inside, 0], grid[inside] * 2, atol=0.01)
    assert on_grid(grid, 50.0, gap=1.0)
    assert not on_grid(times, 50.0, gap=1.0)  # the short gap is still open


@pytest.mark.parametrize("rate", [10.0, 25.0, 31.0, 49.0, 51.0, 100.0])
@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_another_rate_is_not_taken_for_the_fixed_one(rate: float, gap: float) -> None:
    assert not on_grid(np.arange(99) / rate, 50.0, gap)
    assert on_grid(np.arange(99) / 50, 50.0, gap)


def test_rows_with_nan_are_gaps() -> None:
    times = np.arange(0, 4, 0.02)
    values = np.stack([times, -times], axis=1)
    values[100:103, 1] = np.nan
    resampler = Resampler(50, 2, gap=1.0)
    grid, samples = resample(times, values, resampler)
    assert (resampler.skipped, resampler.filled, resampler.split) == (3, 1, 0)
    np.testing.assert_allclose(samples[90:110], np.stack([grid, -grid], axis=1)[90:110], atol=1e-3)


def test_time_that_goes_backwards_is_an_error() -> None:
    resampler = Resampler(50, 1, gap=1.0)
    resampler.push(np.array([0.0, 0.1]), np.ones((2, 1)))
    with pytest.raises(DataError, match=r"backwards at 0\.05"):
        resampler.push(np.array([0.05]), np.ones((1, 1)))


def test_milliseconds_taken_for_seconds_are_an_error() -> None:
    with pytest.raises(DataError, match="time_ms"):
        resample(np.arange(100) * 20.0, np.ones((100, 1)), Resampler(50, 1, gap=1.0))


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 700), max_size=12),
    incoming=st.sampled_from([20.0, 50.0, 77.7, 200.0]),
    seed=st.integers(0, 99),
)
def test_chunks_never_matter(cuts: list[int], incoming: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.8, 1.2, size=700) / incoming
    steps[rng.integers(0, 700, size=3)] += [0.0, 0.4, 3.0]  # gaps of either kind
    times, values = np.cumsum(steps), rng.normal(size=(700, 3))
    values[rng.random(values.shape) < 0.005] = np.nan
    whole = Resampler(50, 3, gap=1.0)
    expected = resample(times, values, whole)
    pushed = Resampler(50, 3, gap=1.0)
    stretches = []
    for rows in np.split(np.arange(700), sorted(cuts)):
        stretches += pushed.push(times[rows], values[rows])
        state = pushed.state()
        pushed = Resampler(50, 3, gap=1.0)
        pushed.restore(*state)
    stretches += pushed.flush()
    got = np.concatenate([stretch.samples for stretch in stretches])
    np.testing.assert_allclose(got, expected[1], atol=1e-5)  # distances are rounded from other buffer ends
    assert sum(stretch.begins for stretch in stretches) == 1 + whole.split
