"""Which column of a table is what: named by the user, or found by looking."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from ..errors import DataError, did_you_mean
from ..table import MISSING
from .stamps import as_dates, is_text, name_rows

TIMES = (
    "time",
    "date",
    "ds",
    "datetime",
    "timestamp",
    "month",
    "day",
    "week",
    "quarter",
    "year",
    "period",
    "step",
    "t",
)
IDS = ("id", "unique_id", "series", "series_id", "item", "item_id", "sku", "store", "product", "name", "key", "ticker")
VALUES = ("value", "y", "target", "sales", "count", "demand", "close", "quantity")

DATE = r"^\d{4}-\d{1,2}(-\d{1,2}.*)?$|^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*$"
NUMBER = r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?"

log = logging.getLogger("holdfast")

Layout = Literal["long", "wide", "rows"]


@dataclass(frozen=True)
class Columns:
    """Roles of columns. Empty ones are found by looking."""

    id: tuple[str, ...] = ()
    time: str | None = None
    values: tuple[str, ...] = ()  # one in a long table, one per series in a wide one
    past: tuple[str, ...] = ()  # covariates known up to now
    future: tuple[str, ...] = ()  # covariates known ahead: plans, prices, holidays
    static: tuple[str, ...] = ()  # one value per series
    layout: Layout = "long"

    def found_in(self, frame: pl.DataFrame) -> "Columns":
        """All roles filled from the names and types of the columns. Raises DataError where it is not clear."""
        for name in (*self.id, self.time, *self.values, *self.past, *self.future, *self.static):
            if name is not None and name not in frame.columns:
                raise DataError(f"the table has no column {name!r}{did_you_mean(name, frame.columns)}")
        covariates = {*self.past, *self.future, *self.static, *self.values}
        free = [name for name in frame.columns if name not in covariates]
        time = self.time or find_time(frame, [name for name in free if name not in self.id])
        free = [name for name in free if name != time]
        ids = self.id or find_id(frame, free, time, bool(self.values))
        rest = [name for name in free if name not in ids]
        numeric = [name for name in rest if frame[name].dtype.is_numeric() or holds_none(frame[name])]
        numeric = numeric or [name for name in rest if name.lower() in VALUES]  # numbers_of names the cell that is none
        given = self.values or tuple(numeric)
        if not given:
            raise DataError(
                f"no column holds numbers to forecast; columns: {', '.join(frame.columns)}",
                hint="name it: value_column",
            )
        if time is None and ids and len(given) > 1 and frame.select(ids).is_unique().all():
            return dataclasses.replace(self, id=ids, values=given, layout="rows")
        if len(given) > 1 and not ids:
            if not self.values and any(name.lower() in VALUES for name in given):
                log.warning(
                    "series: %s are each taken as a series; if only one is to be forecast, name it (value_column)",
                    ", ".join(given),
                )
            return dataclasses.replace(self, time=time, values=given, layout="wide")
        value = given[0] if len(given) == 1 else find_value(given)
        return dataclasses.replace(self, id=ids, time=time, values=(value,), layout="long")

    def in_words(self, frame: pl.DataFrame) -> str:
        """What was found, for the log."""
        if self.layout == "rows":
            return f"one per row, named by {'/'.join(self.id)}, {len(self.values)} columns of values"
        time = f"time in {self.time!r}" if self.time is not None else "no time column (rows are counted)"
        if self.layout == "wide":
            return f"one per column ({len(self.values)}), {time}"
        roles = {*self.id, self.time, *self.values, *self.past, *self.future, *self.static}
        unused = [name for name in frame.columns if name not in roles]
        rest = f"; not used: {', '.join(unused)} (name them: past, future or static)" if unused else ""
        return f"one value per row, {time}, id in {'/'.join(self.id) or 'no column'}, value in {self.values[0]!r}{rest}"


def without_index(frame: pl.DataFrame) -> pl.DataFrame:
    """The table without the column of row numbers pandas writes. Raises DataError where two columns share a name."""
    for name in frame.columns:
        base = re.sub(r"_duplicated_\d+$", "", name)
        if base != name and base in frame.columns:
            raise DataError(f"the header has {base!r} twice", hint="rename or drop one of these columns")
        if not name.strip() or re.fullmatch(r"Unnamed: ?\d+|__index_level_\d+__", name):
            column = frame[name]
            if column.dtype.is_integer() and column.null_count() == 0 and frame.width > 1:
                numbers = column.cast(pl.Int64).to_numpy()
                if numbers[0] in (0, 1) and (numbers == numbers[0] + np.arange(len(numbers))).all():
                    log.info("series: the column %r numbers the rows; it is left out", name)
                    frame = frame.drop(name)
    return frame


def refuse_no_header(frame: pl.DataFrame) -> None:
    """Raise DataError where the column names look like a row of data."""
    names = [re.sub(r"_duplicated_\d+$", "", name) for name in frame.columns]
    dated = [name for name in names if re.match(DATE, name) and name in frame.columns]
    dated = [name for name in dated if frame[name].dtype.is_temporal() or frame[name].dtype == pl.String]
    numbers = all(re.fullmatch(NUMBER, name) for name in names)
    counted = names in ([str(n) for n in range(len(names))], [str(n + 1) for n in range(len(names))])
    if dated or (numbers and not counted):
        raise DataError(
            f"the first line looks like data, not like column names: {', '.join(names[:5])}",
            hint="put a line of names above it, such as id,time,value",
        )


def find_time(frame: pl.DataFrame, free: Sequence[str]) -> str | None:
    """The column of times: by type, then by name, then by what its texts look like."""
    for name in free:
        if frame[name].dtype.is_temporal():
            return name
    named = sorted((name for name in free if name.lower() in TIMES), key=lambda name: TIMES.index(name.lower()))
    if named:
        return named[0]
    for name in free:
        if frame[name].dtype == pl.String and as_dates(frame[name].drop_nulls().head(200)) is not None:
            return name
    return None


def find_id(frame: pl.DataFrame, free: Sequence[str], time: str | None, value_named: bool) -> tuple[str, ...]:
    """The column that tells the series apart: by name, or a text column; () where there is none."""
    named = sorted((name for name in free if name.lower() in IDS), key=lambda name: IDS.index(name.lower()))
    texts = [name for name in free if is_text(frame[name])]
    texts = [name for name in texts if not holds_none(frame[name]) and name.lower() not in VALUES]
    if named and (named[0] in texts or time is None or frame[named[0]].n_unique() < frame.height or value_named):
        together = tuple(name for name in free if name in named)  # store and item, where one alone is not enough
        alone = time is None or frame.select(named[0], time).is_unique().all()
        return (named[0],) if alone else together
    if len(texts) == 1 or (texts and time is None and frame.columns[0] == texts[0]):
        return (texts[0],)
    if texts:
        raise DataError(
            f"several columns could tell the series apart: {', '.join(texts)}", hint="name one or more: id_column"
        )
    return ()


def find_value(numeric: Sequence[str]) -> str:
    """The column to forecast among several numeric ones, by name."""
    for name in VALUES:
        for column in numeric:
            if column.lower() == name:
                return column
    raise DataError(
        f"several columns could be the value: {', '.join(numeric)}",
        hint="name one: value_column, and the others: past, future or static",
    )


def holds_none(column: pl.Series) -> bool:
    """Whether a column is empty from top to bottom: no type can be told."""
    return column.null_count() == len(column)


def numbers_of(frame: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """[rows, columns] float64 with NaN for empty cells. Raises DataError naming rows that hold no finite number."""
    columns: list[np.ndarray] = []
    for name in names:
        column = frame[name]
        if column.dtype == pl.String:  # 1,234.5 and 12 % are not guessed at
            column = column.str.strip_chars()
            column = column.set(column.is_in(MISSING), None)
        numbers = column.cast(pl.Float64, strict=False)
        lost = np.flatnonzero((numbers.is_null() & column.is_not_null()).to_numpy())
        cells = numbers.to_numpy().astype(np.float64)
        lost = lost if lost.size else np.flatnonzero(np.isinf(cells))
        if lost.size:
            raise DataError(
                f"column {name!r} holds no number in {name_rows(lost)}: {column[int(lost[0])]!r}",
                hint="write numbers as 1234.5, and leave the cell empty where there is none",
            )
        columns.append(cells)
    return np.column_stack(columns)
