"""Made-up series: from which something can be learned, and whose truth is known."""

import numpy as np

from .frequency import DAY, Frequency
from .series import Series

FIRST_DAY = int(np.datetime64("2021-01-04", "D").astype(np.int64)) * DAY  # a Monday


def made_up_series(count: int, rng: np.random.Generator) -> list[Series]:
    """Daily sales of ``count`` shops: level, trend, a week, wages every second Friday, noise, and a few missing days.

    The wages are what there is to learn: whoever repeats last week is wrong every week.
    """
    week = np.array([0.0, -0.1, -0.05, 0.05, 0.1, 0.3, -0.5])
    wages = np.array([0.0, 0.0, 0.0, 0.0, 0.7, 0.5, 0.2] + [0.0] * 7)
    found: list[Series] = []
    for number in range(count):
        days = int(rng.integers(150, 250))
        time = np.arange(days)
        level, slope = rng.uniform(3, 6), rng.normal(0, 0.002)
        noise = np.zeros(days)
        for day in range(1, days):  # what is left over from yesterday: something to learn beyond the week
            noise[day] = 0.7 * noise[day - 1] + rng.normal(0, 0.05)
        cycles = rng.uniform(0.5, 1.0) * week[time % 7] + rng.uniform(0.7, 1.2) * wages[time % 14]
        values = np.exp(level + slope * time + cycles + noise)
        missing = rng.random(days) < 0.03
        missing[[0, -1]] = False
        values[missing] = np.nan
        found.append(Series(f"shop-{number}", FIRST_DAY, Frequency("microsecond", DAY), values))
    return found


def made_up_months(count: int, rng: np.random.Generator) -> list[Series]:
    """Monthly series of ``count`` firms: growth that changes its pace, a year of its own shape, and lasting noise.

    What there is to learn: the year grows with the level, the pace of growth lasts, and a good month is followed by
    another. Whoever repeats last year knows none of it.
    """
    found: list[Series] = []
    for number in range(count):
        months = int(rng.integers(100, 200))
        time = np.arange(months)
        pace = rng.normal(0.006, 0.006) + np.cumsum(rng.normal(0, 0.0006, months))
        waves = [
            rng.normal(0, 0.15 / k) * np.cos(2 * np.pi * k * (time + rng.uniform(0, 12)) / 12) for k in (1, 2, 3, 4)
        ]
        noise = np.zeros(months)
        for month in range(1, months):
            noise[month] = 0.7 * noise[month - 1] + rng.normal(0, 0.02)
        values = np.exp(rng.uniform(2, 7) + np.cumsum(pace) + np.sum(waves, axis=0) + noise)
        found.append(Series(f"firm-{number}", int(rng.integers(-300, 300)), Frequency("month", 1), values))
    return found
