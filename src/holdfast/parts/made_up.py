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
