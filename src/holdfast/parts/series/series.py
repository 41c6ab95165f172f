"""Series: values on a regular grid of time, with what else is known about them, and the tables they come from."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from ..errors import DataError
from .columns import Columns, numbers_of, refuse_no_header, without_index
from .frequency import Frequency, infer
from .mixture import refuse_mixture, warn_of_gaps
from .stamps import name_rows, parse_stamps, with_dates

log = logging.getLogger("holdfast")

# A grid more than this many times longer than the rows on it is a mistake in the stamps, not a series with gaps.
SPARSEST = 50


def no_covariates() -> np.ndarray:
    """[0, 0]: no covariates."""
    return np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class Series:
    """One series. Missing values are NaN; the first and the last value are there."""

    id: str
    start: int  # stamp of the first value: microseconds since 1970, or a step
    frequency: Frequency
    values: np.ndarray  # [time] float64
    past: np.ndarray = field(default_factory=no_covariates)  # [time, past covariates] float64, NaN where missing
    future: np.ndarray = field(default_factory=no_covariates)  # [time + known ahead, future covariates] float64
    static: Mapping[str, str | float] = field(default_factory=dict[str, str | float])
    origin: int = 0  # values from here on are there to be forecast and scored; those before are only history

    @property
    def observed(self) -> np.ndarray:
        """[time] bool: where there is a value."""
        return ~np.isnan(self.values)

    def stamps(self, first: int, count: int) -> np.ndarray:
        """[count] int64 stamps of the places first, first + 1, ...; places behind the last value are the future."""
        return self.frequency.stamps(self.start, np.arange(first, first + count))

    def until(self, end: int) -> "Series":
        """The series as it was known when ``end`` values were there; future covariates stay."""
        return dataclasses.replace(self, values=self.values[:end], past=self.past[:end], origin=0)

    def since(self, origin: int) -> "Series":
        """The same series, of which only the values from ``origin`` on are to be forecast and scored."""
        return dataclasses.replace(self, origin=origin)


def read_series(frame: pl.DataFrame, columns: Columns) -> list[Series]:
    """Series from a table in any of three layouts; columns not named in ``columns`` are found by looking.

    long: one value per row (id, time, value). wide: one series per column (time, a, b, c). rows: one series per row
    (id, v1, v2, ...), as in the M4 files. Raises DataError naming columns and rows, counted from 1 below the header.
    """
    if frame.height == 0:
        raise DataError("the table has no rows", hint="one value per row: id, time, value")
    frame = with_dates(without_index(frame))
    refuse_no_header(frame)
    columns = columns.found_in(frame)
    log.info("series: %s", columns.in_words(frame))
    series = from_rows(frame, columns) if columns.layout == "rows" else from_long(*melt(frame, columns))
    gaps = sum(int((~one.observed).sum()) for one in series)
    total = sum(len(one.values) for one in series)
    log.info("series: %d of them, %d values, %s, %d missing", len(series), total, series[0].frequency.name, gaps)
    warn_of_gaps([(one.id, one.values) for one in series], series[0].frequency)
    return series


def from_rows(frame: pl.DataFrame, columns: Columns) -> list[Series]:
    """One series per row, in plain steps; empty cells at the end are padding."""
    values = numbers_of(frame, columns.values)  # [series, time]
    names = name_groups(frame, columns.id)
    found: list[Series] = []
    for at, row in enumerate(values):
        name = str(names[at]) if names is not None else f"row {at + 1}"
        there = np.flatnonzero(~np.isnan(row))
        if there.size == 0:
            log.warning("series %s has no values and is left out", name)
            continue
        static = {key: scalar(frame[key][at]) for key in columns.static}
        found.append(Series(name, int(there[0]), Frequency("step", 1), row[there[0] : there[-1] + 1], static=static))
    if not found:
        raise DataError("no series has a value", hint="check the value columns")
    return found


def melt(frame: pl.DataFrame, columns: Columns) -> tuple[pl.DataFrame, Columns]:
    """A wide table as a long one; a long one as it is."""
    if columns.layout == "long":
        return frame, columns
    keep = [name for name in (columns.time, *columns.future, *columns.past) if name is not None]
    name, value = unused("series", frame.columns), unused("value", frame.columns)
    long = frame.unpivot(on=list(columns.values), index=keep, variable_name=name, value_name=value)
    return long, dataclasses.replace(columns, id=(name,), values=(value,), layout="long")


def unused(name: str, names: Sequence[str]) -> str:
    """A name that no column has."""
    while name in names:
        name += "_"
    return name


def from_long(frame: pl.DataFrame, columns: Columns) -> list[Series]:
    """One value per row -> series on a regular grid, in order of first appearance."""
    names = name_groups(frame, columns.id)
    group = groups_of(names) if names is not None else np.zeros(frame.height, dtype=np.int64)
    if columns.time is None:
        stamps, calendar = steps_within(group), False
    else:
        stamps, calendar = parse_stamps(frame[columns.time])
    order = np.lexsort((stamps, group))
    starts = np.diff(group[order], prepend=-1) > 0
    refuse_twins(stamps[order], starts, order, names)
    refuse_mixture(stamps[order], starts, order, names, calendar=calendar)
    frequency = infer(stamps[order], starts, calendar=calendar)
    cells = numbers_of(frame, (*columns.values, *columns.past, *columns.future))[order]  # [rows, 1 + past + future]
    edges = np.append(np.flatnonzero(starts), len(order))
    found: list[Series] = []
    for begin, end in itertools.pairwise(edges):
        rows = order[begin:end]
        name = "series" if names is None else str(names[int(rows[0])])
        static = {key: one_static(frame[key], rows, name) for key in columns.static}
        made = on_grid(name, stamps[rows], cells[begin:end], rows, frequency, len(columns.past))
        found += [dataclasses.replace(one, static=static) for one in made]
    if not found:
        raise DataError("no series has a value", hint="check the value column")
    return found


def on_grid(
    name: str,
    stamps: np.ndarray,
    cells: np.ndarray,
    rows: np.ndarray,
    frequency: Frequency,
    pasts: int,
) -> Iterator[Series]:
    """The rows of one series (ascending) on its grid, or nothing where it has no value."""
    start = int(stamps[0])
    place, fits = frequency.index(stamps, start)
    if not fits.all():
        refuse_irregular(name, stamps, rows, frequency)
    if place[-1] + 1 > SPARSEST * max(len(rows), 100):
        raise DataError(
            f"series {name} has {len(rows)} rows on a grid of {place[-1] + 1} ({frequency.name})",
            hint=f"check the stamps in {name_rows(rows[[np.diff(place).argmax() + 1]])}",
        )
    grid = np.full((place[-1] + 1, cells.shape[1]), np.nan)
    grid[place] = cells
    there = np.flatnonzero(~np.isnan(grid[:, 0]))
    if there.size == 0:
        log.warning("series %s has no values and is left out", name)
        return
    first, last = int(there[0]), int(there[-1]) + 1
    yield Series(
        name,
        int(frequency.stamps(start, np.array([first]))[0]),
        frequency,
        grid[first:last, 0],
        past=grid[first:last, 1 : 1 + pasts],
        future=grid[first:, 1 + pasts :],
    )


def refuse_twins(stamps: np.ndarray, starts: np.ndarray, order: np.ndarray, names: pl.Series | None) -> None:
    """Raise DataError where a series has two rows for one time."""
    twins = np.flatnonzero((np.diff(stamps) == 0) & ~starts[1:]) + 1
    if twins.size:
        name = "" if names is None else f" of series {names[int(order[twins[0]])]}"
        raise DataError(
            f"two values for one time{name}: {name_rows(np.sort(order[twins]))} repeat an earlier row",
            hint="keep one, add them up, or name the column that tells the series apart: id_column",
        )


def refuse_irregular(name: str, stamps: np.ndarray, rows: np.ndarray, frequency: Frequency) -> None:
    """Raise DataError naming the rows of a series that do not stand on the grid most of its rows stand on."""
    best = np.zeros(len(stamps), dtype=bool)
    for start in stamps[:20]:  # the grid most stamps agree on; the first stamp itself may be the odd one
        _, fits = frequency.index(stamps, int(start))
        best = fits if fits.sum() > best.sum() else best
    odd = np.flatnonzero(~best)
    shown = frequency.text(stamps[odd[:1]])[0] if frequency.has_calendar else int(stamps[odd[0]])
    raise DataError(
        f"series {name} is {frequency.name}, but {len(odd)} of its {len(rows)} rows are off that grid: "
        f"{name_rows(np.sort(rows[odd]))} ({shown}{', ...' if len(odd) > 1 else ''})",
        hint="round these times, drop the rows, or resample the series to a regular grid",
    )


def steps_within(group: np.ndarray) -> np.ndarray:
    """[rows] the how-manieth row of its group each row is, for tables without times."""
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1) > 0)
    steps = np.empty(len(group), dtype=np.int64)
    steps[order] = np.arange(len(group)) - np.repeat(begins, np.diff(np.append(begins, len(group))))
    return steps


def name_groups(frame: pl.DataFrame, ids: Sequence[str]) -> pl.Series | None:
    """[rows] the series' name of each row, several id columns joined by "/"; None where there is none."""
    if not ids:
        return None
    for name in ids:
        column = frame[name].cast(pl.String)
        empty = np.flatnonzero((column.is_null() | (column.str.strip_chars() == "")).to_numpy())
        if empty.size:
            raise DataError(
                f"column {name!r} does not say which series {name_rows(empty)} belongs to",
                hint="fill in the id, or drop the row",
            )
    texts = [pl.col(name).cast(pl.String) for name in ids]
    return frame.select(pl.concat_str(texts, separator="/").alias("name"))["name"]


def groups_of(names: pl.Series) -> np.ndarray:
    """[rows] a number for each name, in order of first appearance."""
    known = names.unique(maintain_order=True).to_frame().with_row_index("number")
    return (
        names.to_frame()
        .join(known, on=names.name, how="left", maintain_order="left")["number"]
        .cast(pl.Int64)
        .to_numpy()
    )


def one_static(column: pl.Series, rows: np.ndarray, name: str) -> str | float:
    """The one value of a static covariate in the rows of a series, empty cells left out."""
    cells = column.gather(np.sort(rows)).drop_nulls()
    if cells.n_unique() > 1:
        odd = np.sort(rows)[
            np.flatnonzero((column.gather(np.sort(rows)) != cells[0]).fill_null(value=False).to_numpy())
        ]
        raise DataError(
            f"series {name}: {column.name!r} is not one value but changes in {name_rows(odd)}",
            hint="static columns have one value per series; name it as past, or future where it is known ahead",
        )
    return scalar(cells[0] if len(cells) else None)


def scalar(value: object) -> str | float:
    """A static covariate as a number or a text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return "?" if value is None else str(value)
