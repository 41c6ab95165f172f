"""Tables that hold more, or less, than one regular grid: series of several frequencies, and series mostly missing."""

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import polars as pl

from ..errors import DataError
from .frequency import DAY, Frequency, infer

log = logging.getLogger("holdfast")

ENOUGH = 5  # rows that tell a series' own frequency
REGULAR = 0.9  # share of gaps between rows that must be one step
MISSING = 0.3  # share of a series' grid that may be missing without a warning


def refuse_mixture(
    stamps: np.ndarray, starts: np.ndarray, order: np.ndarray, names: pl.Series | None, *, calendar: bool
) -> None:
    """Raise DataError naming two series whose frequencies differ twofold or more (sorted stamps, as infer has them)."""
    found: list[tuple[float, str, Frequency]] = []
    edges = np.append(np.flatnonzero(starts), len(stamps))
    for begin, end in itertools.pairwise(edges):
        if names is None or end - begin < ENOUGH:
            continue
        gaps = np.diff(stamps[begin:end])
        usual = float(np.median(gaps))
        if (np.abs(gaps / usual - 1) < 0.15).mean() < REGULAR:  # months differ by a tenth
            continue
        found.append((usual, str(names[int(order[begin])]), own(stamps[begin:end], calendar=calendar)))
    if not found:
        return
    low, high = min(found, key=lambda one: one[0]), max(found, key=lambda one: one[0])
    if high[0] > 1.9 * low[0]:
        raise DataError(
            f"series {low[1]} is {low[2].name}, series {high[1]} is {high[2].name}",
            hint="train one model per frequency: put such series into files of their own, or resample them",
        )


def own(stamps: np.ndarray, *, calendar: bool) -> Frequency:
    """The frequency of one series."""
    return infer(stamps, np.arange(len(stamps)) == 0, calendar=calendar)


def warn_of_gaps(series: Sequence[tuple[str, np.ndarray]], frequency: Frequency) -> None:
    """Log a warning that names the series (id, values) most of whose grid is missing."""
    shares = [(float(np.isnan(values).mean()), name) for name, values in series]
    bad = [one for one in shares if one[0] > MISSING]
    if bad:
        share, name = max(bad)
        irregular = frequency.unit == "microsecond" and frequency.count <= DAY
        log.warning(
            "series: %d of %d miss more than %.0f %% of their steps (%s: %.0f %%) when read as %s%s",
            len(bad), len(shares), 100 * MISSING, name, 100 * share, frequency.name,
            "; are the times irregular? resample them to a regular grid" if irregular else "",
        )  # fmt: skip
