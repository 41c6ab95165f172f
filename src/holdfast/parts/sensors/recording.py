"""Recordings: what sensors measured over time on one person or thing, and how they are read from tables and folders.

A table has one row per instant: a time column (seconds, or date-times), one column per sensor channel, and where known
the label of that instant, the person and the recording it belongs to. The columns are found by their names; every
column that is none of these is a channel.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeGuard

import numpy as np
import polars as pl

from ..errors import DataError
from ..table import MISSING, arriving_lines, choose_column, read_table
from .resampling import SLOWEST

log = logging.getLogger("holdfast")

ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".jsonl", ".gz", ".xz")  # files of a folder that are looked into
TIMES = ("time", "timestamp", "t", "ts", "seconds", "elapsed", "secondselapsed", "date", "datetime", "clock")
LABELS = ("label", "activity", "class", "target", "annotation", "activityname", "labelname")
PEOPLE = ("person", "subject", "user", "participant", "volunteer", "wearer", "patient")
RECORDINGS = ("recording", "session", "trial", "experiment", "file")
UNITS = {"ms": 1e3, "us": 1e6, "ns": 1e9}  # time columns whose name ends so: "time_ms", "timestamp (ns)"
ENDS = ("id", "s", "sec", *UNITS)  # what may follow a known name
UNNAMED = re.compile(r"(Unnamed: \d+.*)?")  # the header of an index that pandas wrote, or of a comma too many
COUNTED = 50  # rows from which on a column that does nothing but count them is taken for an index


@dataclass(frozen=True, eq=False)
class Recording:
    """What one set of sensors measured, in the order of time."""

    name: str
    channels: tuple[str, ...]
    times: np.ndarray  # [time] float64, seconds, never falling
    samples: np.ndarray  # [time, channels] float32, NaN where nothing was measured
    labels: np.ndarray | None = None  # [time] text, "" where nobody said
    person: str = ""
    dated: bool = False  # times are seconds since 1970-01-01, to be shown as date-times

    def __post_init__(self) -> None:
        if self.samples.shape != (len(self.times), len(self.channels)):
            raise ValueError(
                f"samples must be [time {len(self.times)}, channels {len(self.channels)}], "
                f"not {list(self.samples.shape)}"
            )
        if self.labels is not None and self.labels.shape != self.times.shape:
            raise ValueError(f"labels must be [time {len(self.times)}], not {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.times)

    def cut(self, start: int, stop: int) -> Self:
        """The samples from start to stop (not included), counted as in a slice."""
        labels = None if self.labels is None else self.labels[start:stop]
        times, samples = self.times[start:stop], self.samples[start:stop]
        return dataclasses.replace(self, times=times, samples=samples, labels=labels)

    def ordered(self, channels: Sequence[str]) -> np.ndarray:
        """The samples of these channels, [time, channels]. Raises DataError where one is missing."""
        if tuple(channels) == self.channels:
            return self.samples
        missing = [name for name in channels if name not in self.channels]
        if missing:
            hint = f"it has {', '.join(self.channels)}"
            like = [name for name in self.channels if name.casefold() == missing[0].casefold()]
            near = f"; {like[0]!r} differs in case only" if like else ""
            raise DataError(f"{self.name or 'the input'} has no channel {missing[0]!r}{near}", hint=hint)
        return self.samples[:, [self.channels.index(name) for name in channels]]


@dataclass(frozen=True)
class Columns:
    """Which column is what. None: find it by its name. ``rate`` (samples per second) stands in for a time column.

    ``unit`` of the times: "s", "ms", "us" or "ns"; None: told by the column's name, else seconds.
    """

    time: str | None = None
    label: str | None = None
    person: str | None = None
    recording: str | None = None
    rate: float | None = None
    unit: str | None = None

    def find(self, names: Sequence[str], where: str) -> "Columns":
        """The columns of one table. Raises DataError where a named one is missing or nothing tells the time."""
        time = choose_column(names, self.time, TIMES, where, ENDS)
        if self.rate is None and time is None:
            hint = "name it with --time-column, or give --source-rate, the samples per second"
            raise DataError(f"{where} has no time column among {', '.join(names)}", hint=hint)
        return Columns(
            time,
            choose_column(names, self.label, LABELS, where, ENDS),
            choose_column(names, self.person, PEOPLE, where, ENDS),
            choose_column(names, self.recording, RECORDINGS, where, ENDS),
            self.rate,
            self.unit,
        )


# --- from files and frames ------------------------------------------------------------------------------------------


def read_recordings(source: Any, columns: Columns) -> list[Recording]:
    """A file, a folder, several of them or a data frame -> recordings with the same channels in the same order.

    A folder holds one table per recording; where no table has a label column, the names of its sub-folders are the
    labels, else they are the people. Raises DataError naming file, row and column.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        found = read_folder(Path(source), columns)
    elif several(source):
        found = [recording for item in source for recording in read_recordings(item, columns)]
    else:
        name = Path(source).name.split(".")[0] if isinstance(source, (str, Path)) else ""
        found = from_table(read_table(source), columns, str(source) if name else "the table", name)
    return same_channels(found)


def several(source: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a source is a list of sources."""
    return isinstance(source, (list, tuple))


def read_folder(folder: Path, columns: Columns) -> list[Recording]:
    """Every table in a folder and its sub-folders, in the order of their names."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    paths = [path for path in paths if not path.name.lower().startswith("readme")]
    if not paths:
        raise DataError(f"{folder} holds no tables", hint="one CSV or Parquet file per recording is looked for")
    found: list[tuple[str, Recording]] = []
    for path in paths:
        inside = path.relative_to(folder)
        name = str(inside.with_name(inside.name.split(".")[0]))
        above = inside.parent.name
        found += [(above, recording) for recording in from_table(read_table(path), columns, str(path), name)]
    labelled = any(recording.labels is not None for _, recording in found)
    return [adopt(recording, above, as_label=not labelled) for above, recording in found]


def adopt(recording: Recording, folder: str, as_label: bool) -> Recording:
    """A recording with what the name of its sub-folder says."""
    if not folder:
        return recording
    if as_label:
        return dataclasses.replace(recording, labels=np.full(len(recording), folder.strip()))
    return recording if recording.person else dataclasses.replace(recording, person=folder)


def same_channels(recordings: list[Recording]) -> list[Recording]:
    """Recordings with their channels in the order of the first one. Raises DataError where they have others."""
    first = recordings[0]
    for other in recordings[1:]:
        if set(other.channels) != set(first.channels):
            odd = sorted(set(other.channels) ^ set(first.channels))[0]
            has, lacks = (other, first) if odd in other.channels else (first, other)
            raise DataError(
                f"{has.name} has the channel {odd!r} and {lacks.name} has not",
                hint="all recordings need the same channels under the same names",
            )
    return [dataclasses.replace(r, samples=r.ordered(first.channels), channels=first.channels) for r in recordings]


def from_table(table: pl.DataFrame, columns: Columns, where: str, name: str, first_row: int = 2) -> list[Recording]:
    """One table -> its recordings, in the order in which they begin. ``first_row`` is the line of its first row."""
    if table.height == 0:
        raise DataError(f"{where} has no rows")
    found = columns.find(table.columns, where)
    special = [column for column in (found.time, found.label, found.person, found.recording) if column]
    channels = without_index(table, [name for name in table.columns if name not in special], where, first_row)
    if not channels:
        raise DataError(f"{where} has no sensor channels", hint=f"its columns are {', '.join(table.columns)}")
    samples = samples_of(table, channels, where, first_row)
    dated = found.time is not None and found.rate is None and table.schema[found.time].is_temporal()
    labels = texts(table, found.label) if found.label else None
    recordings: list[Recording] = []
    parts = list(groups(table, found))
    for person, recording, rows in parts:
        own = (recording or person) if len(parts) > 1 else ""
        whole = Recording(
            " ".join(part for part in (name, own) if part),
            channels,
            times_of(table, rows, found, where, first_row),
            samples[rows],
            None if labels is None else labels[rows],
            person,
            dated,
        )
        recordings.append(whole)
    return recordings


def without_index(table: pl.DataFrame, names: Sequence[str], where: str, first_row: int) -> tuple[str, ...]:
    """The columns that are channels: without nameless ones, and without those that do nothing but count the rows.

    A piece of a stream is too short to tell that a column counts; there it is left out for a model does not ask for it.
    """
    odd = [name for name in names if UNNAMED.fullmatch(name) or counts(table[name])]
    if len(odd) == len(names) and not any(UNNAMED.fullmatch(name) for name in odd):
        return tuple(names)  # nothing else was measured
    if odd and first_row == 2:  # once per stream
        log.warning("%s: left out, as an index is no measurement: column %s", where, ", ".join(map(repr, odd)))
    return tuple(name for name in names if name not in odd)


def counts(column: pl.Series) -> bool:
    """Whether a column holds 0, 1, 2, ... or 1, 2, 3, ..., be it anew here and there as where files were joined."""
    if len(column) < COUNTED or not column.dtype.is_numeric() or column.null_count():
        return False
    values = column.cast(pl.Float64).to_numpy()
    anew = np.flatnonzero(np.diff(values) != 1) + 1
    return bool(values[0] in (0, 1) and np.all(values[anew] == values[0]) and len(anew) < len(values) / COUNTED)


def groups(table: pl.DataFrame, columns: Columns) -> Iterator[tuple[str, str, np.ndarray]]:
    """(person, recording, row numbers) for each recording of a table, in the order in which they begin."""
    people = texts(table, columns.person) if columns.person else np.full(table.height, "")
    recordings = texts(table, columns.recording) if columns.recording else np.full(table.height, "")
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(people.tolist(), recordings.tolist(), strict=True)):
        rows.setdefault(key, []).append(row)
    for (person, recording), numbers_of_rows in rows.items():
        yield person, recording, np.array(numbers_of_rows)


def texts(table: pl.DataFrame, column: str) -> np.ndarray:
    """A column as text, "" where it is empty."""
    return np.array(table[column].cast(pl.String).fill_null("").str.strip_chars().to_list(), dtype=np.str_)


def numbers(table: pl.DataFrame, column: str, where: str, first_row: int) -> np.ndarray:
    """A channel as float64, NaN where it is empty. Raises DataError with the first row that is no number."""
    values = table[column]
    if values.null_count() == table.height:
        raise DataError(f"{where}: the channel {column!r} is empty in all {table.height} rows")
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        cast = values.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
        wrong = (cast.is_null() & values.is_not_null()).arg_true()
        if values.dtype.is_temporal() or len(wrong):
            row = int(wrong[0]) if len(wrong) else 0
            raise DataError(
                f"{where}, row {first_row + row}, column {column!r}: {values[row]!r} is not a number",
                hint="no channel? see --label-column, --person-column, --recording-column, --time-column",
            )
        values = cast
    array = values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    return np.where(np.isfinite(array), array, math.nan)


def samples_of(table: pl.DataFrame, channels: Sequence[str], where: str, first_row: int) -> np.ndarray:
    """Channels [time, channels] float32, NaN where nothing was measured, or what float32 cannot hold."""
    values = np.stack([numbers(table, channel, where, first_row) for channel in channels], axis=1)
    return np.where(np.abs(values) < np.finfo(np.float32).max, values, math.nan).astype(np.float32)


def times_of(table: pl.DataFrame, rows: np.ndarray, columns: Columns, where: str, first_row: int) -> np.ndarray:
    """The times of some rows of a table in seconds. Raises DataError where they are missing or go backwards."""
    if columns.rate is not None or columns.time is None:
        return np.arange(len(rows)) / (columns.rate or 1.0)
    column = table[columns.time]
    if column.dtype == pl.Date or column.dtype == pl.Time:
        raise DataError(f"{where}: the column {columns.time!r} holds no full date-times, but {column.dtype}")
    if column.dtype.is_temporal():
        unit = 1.0 if column.dtype == pl.Datetime else 0.0
        seconds = (column.dt.timestamp("us") if unit else column.dt.total_microseconds()).cast(pl.Float64) / 1e6
        times = seconds.fill_null(math.nan).to_numpy()
    else:
        times = numbers(table, columns.time, where, first_row) / unit_of(columns)
    times = times[rows]
    check_times(times, rows + first_row, f"{where}", columns)
    return times


def check_times(times: np.ndarray, rows: np.ndarray, where: str, columns: Columns) -> None:
    """Raise DataError where times (seconds) of some rows are missing, go backwards, or cannot be seconds."""
    gone = np.flatnonzero(np.isnan(times))
    if len(gone):
        raise DataError(f"{where}, row {rows[gone[0]]}, column {columns.time!r}: there is no time")
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        row = back[0] + 1
        raise DataError(
            f"{where}, row {rows[row]}, column {columns.time!r}: "
            f"time goes backwards, from {times[row - 1]:.6f} s to {times[row]:.6f} s",
            hint="sort the rows, or name the --recording-column where the file holds several recordings",
        )
    same = int((np.diff(times) == 0).sum())
    if same > len(times) / 4:
        raise DataError(
            f"{where}, column {columns.time!r}: {same} of {len(times)} rows have the time of the row before",
            hint="the times are too coarse; give --source-rate, the samples per second, in their place",
        )
    step = float(np.median(np.diff(times))) if len(times) > 2 else 0.0
    if step * SLOWEST > 1:
        likely = next((unit for unit, per in UNITS.items() if step / per < 1), "ms")
        raise DataError(
            f"{where}, column {columns.time!r}: there are only {1 / step:.3g} samples per second",
            hint=f"if the times are no seconds, say so: --time-unit {likely}; or give --source-rate in their place",
        )


def unit_of(columns: Columns) -> float:
    """How many units of a time column make a second: as said, or told by the end of its name, as in time_ms."""
    if columns.unit is not None:
        return UNITS.get(columns.unit, 1.0)
    plain = "".join(letter for letter in (columns.time or "").lower() if letter.isalnum())
    return next((per for unit, per in UNITS.items() if plain.endswith(unit) and plain not in TIMES), 1.0)


# --- from a pipe ----------------------------------------------------------------------------------------------------


def read_lines(source: BinaryIO, columns: Columns) -> Iterator[Recording]:
    """A CSV that is still being written -> pieces of a recording, as soon as their lines are complete.

    Raises DataError where it ends without a row.
    """
    for header, lines, row in arriving_lines(source):
        delimiter = chr(max(b",;\t|", key=header.count))
        table = parse(header + b"\n" + b"\n".join(lines), delimiter, row)
        for piece in from_table(table, columns, "standard input", "", row):
            shift = (row - 2) / columns.rate if columns.rate is not None else 0.0
            yield dataclasses.replace(piece, times=piece.times + shift)


def parse(raw: bytes, delimiter: str, row: int) -> pl.DataFrame:
    """Some lines of a CSV under its header."""
    try:
        return pl.read_csv(
            raw, separator=delimiter, null_values=MISSING, infer_schema_length=None, try_parse_dates=True
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"standard input, from row {row}: {error}") from None
