"""Frequencies: how far apart the stamps of a series are, found by looking, and the grid they stand on."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import DataError

SECOND = 1_000_000  # microseconds
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WEEK = 7 * DAY
NAMES = {SECOND: "every second", MINUTE: "every minute", HOUR: "hourly", DAY: "daily", WEEK: "weekly"}
MONTHS = {1: "monthly", 3: "quarterly", 6: "half-yearly", 12: "yearly"}

Unit = Literal["step", "microsecond", "business day", "month", "month end"]


@dataclass(frozen=True)
class Frequency:
    """A grid of stamps: every ``count`` units from some start. Stamps are int64: microseconds since 1970, or steps."""

    unit: Unit
    count: int

    @property
    def has_calendar(self) -> bool:
        """Whether the stamps are dates; plain steps have no calendar."""
        return self.unit != "step"

    @property
    def name(self) -> str:
        """In words: "hourly", "every 15 minutes", "monthly (month end)"."""
        if self.unit == "step":
            return "plain steps" if self.count == 1 else f"steps of {self.count}"
        if self.unit == "business day":
            return "business days"
        if self.unit in ("month", "month end"):
            end = " (month end)" if self.unit == "month end" else ""
            return MONTHS.get(self.count, f"every {self.count} months") + end
        for size, word in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes"), (SECOND, "seconds")):
            if self.count % size == 0:
                return NAMES.get(self.count, f"every {self.count // size} {word}")
        return f"every {self.count} microseconds"

    @property
    def seasons(self) -> tuple[int, ...]:
        """Usual season lengths in steps, shortest first; empty where none is known. The first is M4's for MASE."""
        if self.unit == "business day":
            return (5,)
        if self.unit in ("month", "month end"):
            return (12 // self.count,) if 12 % self.count == 0 and self.count < 12 else ()
        if self.unit == "microsecond":
            if self.count == WEEK:
                return (52,)
            spans = (DAY, WEEK) if self.count < DAY else (WEEK,)
            return tuple(span // self.count for span in spans if span % self.count == 0 and span > self.count)
        return ()

    @property
    def horizon(self) -> int:
        """How far to look ahead when nobody says: M4's horizons where M4 has the frequency, else two seasons."""
        if self.unit in ("month", "month end"):
            return {1: 18, 3: 8, 12: 6}.get(self.count, 12)
        fixed = {HOUR: 48, DAY: 14, WEEK: 13}
        if self.unit == "microsecond" and self.count in fixed:
            return fixed[self.count]
        return min(2 * self.seasons[0], 96) if self.seasons else 12

    def index(self, stamps: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Place of each stamp on the grid from ``start`` (int64), and whether it stands on the grid at all (bool)."""
        if self.unit in ("step", "microsecond"):
            return (stamps - start) // self.count, (stamps - start) % self.count == 0
        days = (stamps // DAY).astype("datetime64[D]")
        first = np.datetime64(start // DAY, "D")
        if self.unit == "business day":
            same_time = stamps % DAY == start % DAY
            return np.busday_count(first, days), np.is_busday(days) & same_time
        months, offset = month_and_offset(stamps, end=self.unit == "month end")
        first_month, first_offset = month_and_offset(np.array([start]), end=self.unit == "month end")
        ahead = months - first_month[0]
        return ahead // self.count, (ahead % self.count == 0) & (offset == first_offset[0])

    def stamps(self, start: int, places: np.ndarray) -> np.ndarray:
        """The stamps at places (int) of the grid from ``start``: the inverse of index."""
        if self.unit in ("step", "microsecond"):
            return start + places.astype(np.int64) * self.count
        if self.unit == "business day":
            days = np.busday_offset(np.datetime64(start // DAY, "D"), places, roll="forward")
            return days.astype(np.int64) * DAY + start % DAY
        end = self.unit == "month end"
        months, offset = month_and_offset(np.array([start]), end=end)
        month = (months[0] + places * self.count + end).astype("datetime64[M]")
        return month.astype("datetime64[D]").astype(np.int64) * DAY + offset[0]

    def text(self, stamps: np.ndarray) -> list[str] | list[int]:
        """Stamps as people write them: whole numbers for steps, dates, or dates with times."""
        if self.unit == "step":
            return [int(stamp) for stamp in stamps]
        dates = stamps.astype("datetime64[us]")
        if np.all(stamps % DAY == 0) and (self.unit != "microsecond" or self.count % DAY == 0):
            return [str(date) for date in dates.astype("datetime64[D]")]
        precision = "datetime64[s]" if np.all(stamps % SECOND == 0) else "datetime64[us]"
        return [str(date).replace("T", " ") for date in dates.astype(precision)]


def month_and_offset(stamps: np.ndarray, *, end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Months since 1970 and microseconds past the month's first midnight (before the next month's where ``end``)."""
    months = stamps.astype("datetime64[us]").astype("datetime64[M]")
    border = months + 1 if end else months
    return months.astype(np.int64), stamps - border.astype("datetime64[us]").astype(np.int64)


def infer(stamps: np.ndarray, starts: np.ndarray, *, calendar: bool) -> Frequency:
    """The frequency of sorted stamps.

    Args:
        stamps: [rows] int64, series after series, ascending within each.
        starts: [rows] bool, True at each series' first row.
        calendar: whether the stamps are microseconds; otherwise they are steps.

    Raises DataError where no series has two rows.
    """
    gaps = np.diff(stamps)[~starts[1:]]
    if gaps.size == 0:
        raise DataError("no series has two rows, so there is no frequency", hint="check the id and time columns")
    sizes, counts = np.unique(gaps, return_counts=True)
    usual = int(sizes[np.argmax(counts)])
    if not calendar:
        return Frequency("step", usual)
    if sizes[0] >= 28 * DAY:
        monthly = month_frequency(stamps, starts)
        if monthly is not None:
            return monthly
    weekdays = (stamps // DAY + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    over_a_weekend = bool(np.any((gaps == 3 * DAY) & (weekdays[:-1][~starts[1:]] == 4)))
    if usual == DAY and weekdays.max() < 5 and over_a_weekend:
        return Frequency("business day", 1)
    return Frequency("microsecond", usual)


def month_frequency(stamps: np.ndarray, starts: np.ndarray) -> Frequency | None:
    """A whole number of months, where every series keeps its day of the month or always has its last; else None."""
    which = np.cumsum(starts) - 1
    units: tuple[tuple[bool, Unit], ...] = ((False, "month"), (True, "month end"))
    for end, unit in units:
        months, offset = month_and_offset(stamps, end=end)
        same = offset == offset[starts][which]
        if same.mean() > 0.9 and not (unit == "month" and offset.min() >= 28 * DAY):
            gaps = np.diff(months)[~starts[1:]]
            gaps = gaps[gaps > 0]
            return Frequency(unit, math.gcd(*map(int, np.unique(gaps)))) if gaps.size else None
    return None
