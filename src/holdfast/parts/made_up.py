"""Made-up series: from which something can be learned, and whose truth is known."""

import numpy as np

from .frequency import DAY, Frequency
from .series import Series

FIRST_DAY = int(np.datetime64("2021-01-04", "D").astype(np.int64)) * DAY  # a Monday


def made_up_series(count: int, rng: np.random.Generator) -> list[Series]:
    """Daily sales of ``count`` shops: level, trend, a week that all share, noise, and a few missing days."""
    week = np.array([0.0, -0.1, -0.05, 0.05, 0.3, 0.6, -0.5])
    found: list[Series] = []
    for number in range(count):
        days = int(rng.integers(150, 250))
        time = np.arange(days)
        level, slope = rng.uniform(3, 6), rng.normal(0, 0.002)
        noise = np.zeros(days)
        for day in range(1, days):  # what is left over from yesterday: something to learn beyond the week
            noise[day] = 0.7 * noise[day - 1] + rng.normal(0, 0.06)
        values = np.exp(level + slope * time + rng.uniform(0.5, 1.0) * week[time % 7] + noise)
        missing = rng.random(days) < 0.03
        missing[[0, -1]] = False
        values[missing] = np.nan
        found.append(Series(f"shop-{number}", FIRST_DAY, Frequency("microsecond", DAY), values))
    return found
