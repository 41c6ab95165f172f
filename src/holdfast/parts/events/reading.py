"""Tables of events, from files, frames and pipes -> histories."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl

from ..errors import DataError
from ..table import MISSING, arriving_lines, choose_column, read_table
from .history import History

log = logging.getLogger("holdfast")

USERS = ("user", "customer", "client", "visitor", "session", "reviewer", "account", "person", "member", "uid")
ITEMS = ("item", "product", "movie", "article", "track", "song", "asin", "sku", "title", "page", "url")
TIMES = ("time", "timestamp", "date", "datetime", "ts", "when", "order", "unixreviewtime", "t")


@dataclass(frozen=True)
class Columns:
    """Which column is what. None: found by its name."""

    user: str | None = None
    item: str | None = None
    time: str | None = None

    def found_in(self, names: Sequence[str], where: str) -> "Columns":
        """User and item for certain, time where there is one. Raises DataError where a column is missing."""
        user = choose_column(names, self.user, USERS, where)
        item = choose_column([name for name in names if name != user], self.item, ITEMS, where)
        if user is None or item is None:
            what, flag = ("users", "--user-column") if user is None else ("items", "--item-column")
            raise DataError(f"{where} has no column of {what} among {', '.join(names)}", hint=f"name it with {flag}")
        rest = [name for name in names if name not in (user, item)]
        return Columns(user, item, choose_column(rest, self.time, TIMES, where))


class Events(NamedTuple):
    """Some rows of a table of events, in its order."""

    users: list[str]
    items: list[str]  # "" asks for an answer: whoever stands there gets a ranking
    times: np.ndarray | None  # [events]


def read_histories(source: Any, columns: Columns) -> list[History]:
    """A file, a folder, several of them or a data frame -> a history per user, in the order in which users appear.

    A user's events from several files come together. Without a time column the order of rows counts. Raises DataError
    naming file, row and column.
    """
    tables = [(str(path), read_table(path)) for path in paths_of(source)] or [("the table", read_table(source))]
    users: list[str] = []
    items: list[str] = []
    times: list[np.ndarray | None] = []
    for where, table in tables:
        if table.height == 0:
            raise DataError(f"{where} has no rows")
        found = events_of(table, columns.found_in(table.columns, where), where)
        users += found.users
        items += found.items
        times.append(found.times)
    dated = all(part is not None for part in times)
    if not dated and any(part is not None for part in times):
        raise DataError("some of these tables have a column of times and some have not", hint="name it: --time-column")
    together = np.concatenate([part for part in times if part is not None]) if dated else None
    histories = gathered(Events(users, items, together))
    log.info("events: %d of %d users%s", len(users), len(histories), "" if dated else ", in the order of their rows")
    return histories


def paths_of(source: Any) -> list[Path]:
    """The files that a source names; none where it is a data frame."""
    if isinstance(source, (list, tuple)):
        return [path for item in source for path in paths_of(item)]
    if not isinstance(source, (str, Path)):
        return []
    path = Path(source)
    if not path.is_dir():
        return [path]
    endings = (".csv", ".tsv", ".jsonl", ".parquet", ".gz", ".xz")
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in endings)
    if not found:
        raise DataError(f"{path} holds no tables", hint="CSV, JSON lines or Parquet files of events are looked for")
    return found


def events_of(table: pl.DataFrame, columns: Columns, where: str, first_row: int = 2) -> Events:
    """The events of one table. ``first_row`` is the line of its first row. Raises DataError where a cell is empty."""
    assert columns.user is not None and columns.item is not None
    users, items = texts(table, columns.user), texts(table, columns.item)
    for name, cells in ((columns.user, users), (columns.item, items)):
        if "" in cells:
            row = first_row + cells.index("")
            raise DataError(f"{where}, row {row}, column {name!r}: it is empty", hint="drop the row, or fill it in")
    return Events(users, items, None if columns.time is None else times_of(table[columns.time], where, first_row))


def texts(table: pl.DataFrame, column: str) -> list[str]:
    """A column as text, "" where it is empty. Whole numbers that came as fractions lose their .0."""
    values = table[column]
    if values.dtype.is_float() and bool((values.drop_nulls() == values.drop_nulls().round()).all()):
        values = values.cast(pl.Int64)
    return values.cast(pl.String).fill_null("").str.strip_chars().to_list()


def times_of(column: pl.Series, where: str, first_row: int) -> np.ndarray:
    """[rows] float64: seconds since 1970 of dates, numbers as they are. Raises DataError naming a row without one."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        dates = column.str.to_datetime(strict=False, time_unit="us") if column.len() else column
        numbers = column.cast(pl.Float64, strict=False)
        column = dates if dates.null_count() <= numbers.null_count() else numbers
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    if not column.dtype.is_numeric():
        raise DataError(f"{where}: the column {column.name!r} holds no times but {column.dtype}")
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        hint = "dates such as 2024-01-31 13:00, or numbers"
        raise DataError(f"{where}, row {first_row + wrong[0]}, column {column.name!r}: there is no time", hint=hint)
    return values


def gathered(events: Events) -> list[History]:
    """A history per user, in the order in which users appear; events of one time stay in the order of rows."""
    rows: dict[str, list[int]] = {}
    for row, user in enumerate(events.users):
        rows.setdefault(user, []).append(row)
    histories: list[History] = []
    for user, own in rows.items():
        order = np.array(own)
        times = None
        if events.times is not None:
            order = order[np.argsort(events.times[order], kind="stable")]
            times = events.times[order]
        histories.append(History(user, tuple(events.items[row] for row in order), times))
    return histories


def read_lines(source: BinaryIO, columns: Columns) -> Iterator[Events]:
    """A CSV that is still being written -> events, as soon as their lines are complete; an empty item is a question.

    Raises DataError where a line cannot be read.
    """
    found: Columns | None = None
    for header, lines, row in arriving_lines(source):
        table = parse(header + b"\n" + b"\n".join(lines), row)
        found = found or columns.found_in(table.columns, "standard input")
        assert found.user is not None and found.item is not None
        users = texts(table, found.user)
        if "" in users:
            raise DataError(f"standard input, row {row + users.index('')}, column {found.user!r}: it is empty")
        yield Events(users, texts(table, found.item), None)  # what arrives is in order


def parse(raw: bytes, row: int) -> pl.DataFrame:
    """Some lines of a CSV under its header, all of it text."""
    delimiter = chr(max(b",;\t|", key=raw.split(b"\n", 1)[0].count))
    try:
        return pl.read_csv(raw, separator=delimiter, null_values=MISSING, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"standard input, from row {row}: {error}") from None
