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
    "%m-%d-%Y",
    "%b %d %Y",
    "%d %b %Y",
)
TWINS = {
    "%d-%m-%Y": "%m-%d-%Y",
    "%d/%m/%Y": "%m/%d/%Y",
    "%d/%m/%Y %H:%M": "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S": "%m/%d/%Y %H:%M:%S",
}
MONTHS = r"^[A-Za-z]{3,9}\.?[ -]\d{4}$"  # Jan 2018, January 2018
SHORT_YEAR = r"^(\d{1,2}[./-]\d{1,2}[./-]\d{2}|[A-Za-z]{3,9}[ .'-]+\d{2})( .*)?$"  # 31.12.24, Jan 18
OFFSET = r"^(\d{4}-\d{1,2}-\d{1,2}[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?) ?(Z|UTC|[+-]\d{2}:?\d{2})$"
ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?$"
YEARS = (1700, 2300)  # dates outside are slips: two-digit years, zeros, swapped columns
ACCEPTED = "dates such as 2024-01-31, 2024-01-31 13:00, 2024-01, 2024Q1, 31.01.2024, 20240131, or whole numbers"


def parse_stamps(column: pl.Series, *, fine: bool | None = None) -> tuple[np.ndarray, bool]:
    """A time column -> ([rows] int64, whether they are microseconds since 1970 rather than plain steps).

    ``fine``: whether stamps lie closer than a day, which decides how time zones are read; found by looking if not
    given. Raises DataError naming the column and the rows (counted from 1) that are empty or no time.
    """
    empty = np.flatnonzero(column.is_null().to_numpy())
    if empty.size:
        raise DataError(f"column {column.name!r} has no time in {name_rows(empty)}", hint="fill it in or drop the row")
    dates = as_dates(column, fine=fine)
    if dates is not None:
        return in_range(dates.cast(pl.Datetime("us"))).cast(pl.Int64).to_numpy(), True
    if column.dtype.is_integer():
        return column.cast(pl.Int64).to_numpy(), False
    if column.dtype.is_float():
        numbers = column.to_numpy()
        broken = np.flatnonzero(numbers != np.floor(numbers))
        if not broken.size:
            return numbers.astype(np.int64), False
        raise DataError(f"column {column.name!r} has fractions in {name_rows(broken)}", hint="times are " + ACCEPTED)
    odd = odd_rows(column.cast(pl.String).str.strip_chars()) if is_text(column) else np.zeros(1, dtype=np.int64)
    raise DataError(
        f"column {column.name!r} holds no times, or in several ways: {column[int(odd[0])]!r} in {name_rows(odd)}",
        hint="write all of them in one way; times are " + ACCEPTED,
    )


def in_range(dates: pl.Series) -> pl.Series:
    """Dates as they are. Raises DataError naming those in a year that cannot be meant."""
    years = dates.dt.year()
    odd = np.flatnonzero(~years.is_between(*YEARS).to_numpy())
    if odd.size:
        raise DataError(
            f"column {dates.name!r} has the year {years[int(odd[0])]} in {name_rows(odd)}",
            hint="years have four digits, 1700 to 2300; times are " + ACCEPTED,
        )
    return dates


def odd_rows(text: pl.Series) -> np.ndarray:
    """The rows that do not fit the format most rows have; the first where no format fits any."""
    shapes = [text.str.to_datetime(form, strict=False).is_null().to_numpy() for form in FORMATS]
    fewest = min(shapes, key=lambda lost: int(lost.sum()))
    return np.flatnonzero(fewest) if not fewest.all() else np.zeros(1, dtype=np.int64)


def as_dates(column: pl.Series, *, fine: bool | None = None) -> pl.Series | None:
    """A column as dates, or None where it has another meaning."""
    if column.dtype == pl.Date:
        return column
    if isinstance(column.dtype, pl.Datetime):
        if not column.dtype.time_zone:
            return column
        utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return wall_or_utc(column.dt.replace_time_zone(None), utc, fine)
    if column.dtype.is_integer():
        return compact_dates(column)
    if is_text(column):
        text = column.cast(pl.String).str.strip_chars()
        return zoned_dates(text, fine) if text.str.contains(OFFSET).all() else text_dates(text)
    return None


def zoned_dates(text: pl.Series, fine: bool | None) -> pl.Series | None:
    """Texts such as 2024-01-31T00:00+01:00 as dates."""
    wall = text_dates(text.str.extract(OFFSET, 1).alias(text.name))
    if wall is None:
        return None
    offset = text.str.extract(OFFSET, 2).str.replace(":", "").str.replace("^(Z|UTC)$", "+0000")
    minutes = offset.str.slice(1, 2).cast(pl.Int64) * 60 + offset.str.slice(3, 2).cast(pl.Int64)
    signed = minutes * offset.str.starts_with("-").cast(pl.Int64) * -2 + minutes
    wall = wall.cast(pl.Datetime("us"))
    return wall_or_utc(wall, (wall.cast(pl.Int64) - signed * 60_000_000).cast(pl.Datetime("us")), fine)


def wall_or_utc(wall: pl.Series, utc: pl.Series, fine: bool | None) -> pl.Series:
    """Local time where stamps are days or more apart (with clock changes not all last 24 hours), else UTC."""
    if fine is None:
        fine = wall.dt.time().n_unique() > 1
    log.info("times of column %r are taken %s", wall.name, "in UTC" if fine else "as the local time of their zone")
    return utc.alias(wall.name) if fine else wall


def with_dates(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, its text columns that hold nothing but dates beginning with the year as dates."""
    found: list[pl.Series] = []
    for column in frame:
        if column.dtype == pl.String and column.null_count() < len(column):
            known = column.drop_nulls().str.strip_chars()
            if known.str.contains(ISO).all() and (dates := text_dates(known)) is not None:
                whole_column = pl.Series(column.name, [None] * len(column), dtype=pl.Datetime("us"))
                places = np.flatnonzero(column.is_not_null().to_numpy())
                found.append(whole_column.scatter(places, dates.cast(pl.Datetime("us"))))
    return frame.with_columns(found)


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
    if text.str.contains(MONTHS).all():
        first = "1 " + text.str.replace(".", "", literal=True).str.replace("-", " ")
        for form in ("%d %b %Y", "%d %B %Y"):
            dates = whole(first.str.to_datetime(form, strict=False))
            if dates is not None:
                return dates.alias(text.name)
    if text.len() and text.str.contains(SHORT_YEAR).all():
        raise DataError(
            f"column {text.name!r} has years of two digits: {text[0]!r} in row 1", hint="write the dates as 2024-01-31"
        )
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
