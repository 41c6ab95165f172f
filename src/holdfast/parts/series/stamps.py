"""Time columns: whatever people write for a date -> int64 stamps."""

import logging

import numpy as np
import polars as pl

from ..errors import DataError

log = logging.getLogger("holdfast")

# Formats tried in turn on a text column; the first that fits every row is taken.
FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d-%m-%Y",
    "%b %d %Y",
    "%d %b %Y",
)
TWINS = {"%d/%m/%Y": "%m/%d/%Y", "%d/%m/%Y %H:%M": "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S": "%m/%d/%Y %H:%M:%S"}
ACCEPTED = "dates such as 2024-01-31, 2024-01-31 13:00, 2024-01, 2024Q1, 31.01.2024, 20240131, or whole numbers"


def parse_stamps(column: pl.Series) -> tuple[np.ndarray, bool]:
    """A time column -> ([rows] int64, whether they are microseconds since 1970 rather than plain steps).

    Raises DataError naming the column and the rows (counted from 1) that are empty or no time.
    """
    empty = np.flatnonzero(column.is_null().to_numpy())
    if empty.size:
        raise DataError(f"column {column.name!r} has no time in {name_rows(empty)}", hint="fill it in or drop the row")
    dates = as_dates(column)
    if dates is not None:
        return dates.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy(), True
    if column.dtype.is_integer():
        return column.cast(pl.Int64).to_numpy(), False
    if column.dtype.is_float():
        numbers = column.to_numpy()
        broken = np.flatnonzero(numbers != np.floor(numbers))
        if not broken.size:
            return numbers.astype(np.int64), False
        raise DataError(f"column {column.name!r} has fractions in {name_rows(broken)}", hint="times are " + ACCEPTED)
    raise DataError(f"column {column.name!r} holds no times: {column[0]!r} in row 1", hint="times are " + ACCEPTED)


def as_dates(column: pl.Series) -> pl.Series | None:
    """A column as dates, or None where it has another meaning."""
    if column.dtype == pl.Date:
        return column
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone:
            log.info("times of column %r are shown in UTC", column.name)
            return column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column
    if column.dtype.is_integer():
        return compact_dates(column)
    if is_text(column):
        return text_dates(column.cast(pl.String).str.strip_chars())
    return None


def is_text(column: pl.Series) -> bool:
    """Whether a column holds texts."""
    return isinstance(column.dtype, (pl.String, pl.Categorical, pl.Enum))


def compact_dates(column: pl.Series) -> pl.Series | None:
    """Whole numbers such as 20240131 or 202401 as dates; None where they are not."""
    low, high = int(column.min() or 0), int(column.max() or 0)  # pyright: ignore[reportArgumentType]
    text = column.cast(pl.String)
    if low >= 18000101 and high <= 22001231:
        return whole(text.str.to_date("%Y%m%d", strict=False))
    if low >= 180001 and high <= 220012 and len(column) > 1:
        return whole((text + "01").str.to_date("%Y%m%d", strict=False))
    return None


def text_dates(text: pl.Series) -> pl.Series | None:
    """A text column as dates in the first format that fits all rows; None where none does."""
    if text.str.contains(r"^\d{4}[-/]\d{1,2}$").all():
        return whole((text.str.replace("/", "-") + "-01").str.to_date("%Y-%m-%d", strict=False))
    if text.str.contains(r"^\d{4}[- ]?[Qq][1-4]$").all():
        month = text.str.slice(-1).cast(pl.Int32) * 3 - 2
        return pl.DataFrame({"y": text.str.slice(0, 4).cast(pl.Int32), "m": month}).select(
            pl.date(pl.col("y"), pl.col("m"), 1).alias(text.name)
        )[text.name]
    head = text.head(1000)
    for form in FORMATS:
        if whole(head.str.to_datetime(form, strict=False)) is None:
            continue
        dates = whole(text.str.to_datetime(form, strict=False))
        if dates is None:
            continue
        twin = TWINS.get(form)
        if twin and whole(text.str.to_datetime(twin, strict=False)) is not None:
            raise DataError(
                f"column {text.name!r} could be day/month or month/day: {text[0]!r} in row 1",
                hint="write the dates as 2024-01-31",
            )
        return dates
    return None


def whole(dates: pl.Series) -> pl.Series | None:
    """The dates where every row has one, else None."""
    return dates if dates.null_count() == 0 else None


def name_rows(rows: np.ndarray) -> str:
    """Row numbers in words, counted from 1 below the header: "row 4", "rows 4, 7, 9 and 12 more"."""
    shown = ", ".join(str(int(row) + 1) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
