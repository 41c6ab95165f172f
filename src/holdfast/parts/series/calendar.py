"""Calendar features: where in the day, the week, the month and the year a stamp lies, as numbers a network can use."""

import numpy as np

from .frequency import DAY, HOUR, Frequency

YEAR = 365.2425  # days


def calendar_width(frequency: Frequency) -> int:
    """How many features calendar gives for series of this frequency: 0 where the stamps are plain steps."""
    return calendar(np.zeros(1, dtype=np.int64), frequency).shape[1]


def calendar(stamps: np.ndarray, frequency: Frequency) -> np.ndarray:
    """Stamps [...] (int64) -> [..., features] float32 in -1..1: sines and cosines of cycles longer than one step."""
    if not frequency.has_calendar:
        return np.zeros((*stamps.shape, 0), dtype=np.float32)
    days = stamps / DAY
    day_of_year = days - stamps.astype("datetime64[us]").astype("datetime64[Y]").astype("datetime64[D]").astype(
        np.int64
    )
    cycles = [(day_of_year / YEAR, 1), (day_of_year / YEAR, 2)]
    if frequency.unit in ("microsecond", "business day"):
        weekday = (days + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
        month = stamps.astype("datetime64[us]").astype("datetime64[M]")
        day_of_month = days - month.astype("datetime64[D]").astype(np.int64)
        step = frequency.count if frequency.unit == "microsecond" else DAY
        if step < 7 * DAY:
            cycles += [(weekday / 7, 1), (weekday / 7, 2), (weekday / 7, 3), (day_of_month / 31, 1)]
        if step < DAY:
            cycles += [(stamps % DAY / DAY, 1), (stamps % DAY / DAY, 2)]
        if step < HOUR:
            cycles += [(stamps % HOUR / HOUR, 1)]
    angles = np.stack([2 * np.pi * turns * harmonic for turns, harmonic in cycles], axis=-1)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)
