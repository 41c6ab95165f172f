"""Rows of series as they come: parsed one by one, and the newest of each series kept."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from .. import packing
from ..errors import DataError
from ..table import MISSING
from .columns import IDS, TIMES, VALUES, Columns
from .frequency import DAY, Frequency
from .series import Series
from .stamps import parse_stamps

KIND = "newest rows of series"


@dataclass
class Kept:
    """The newest rows of one series."""

    start: int  # stamp of its first row
    places: list[int] = field(default_factory=list[int])  # on the grid from start, ascending
    cells: list[list[float]] = field(default_factory=list[list[float]])  # value, past, future of each row
    static: dict[str, str | float] = field(default_factory=dict[str, str | float])


class Rows:
    """Takes rows in the order of time and keeps ``memory`` steps of every series."""

    def __init__(self, columns: Columns, frequency: Frequency, memory: int) -> None:
        self.columns, self.frequency, self.memory = columns, frequency, memory
        self.roles: Columns | None = None  # all columns, from the first row
        self.kept: dict[str, Kept] = {}
        self.steps: dict[str, int] = {}  # rows heard of a series without times

    def add(self, row: Mapping[str, Any]) -> None:
        """One row: id, time, value and the covariates, under the names of the training table or usual ones."""
        columns = self.roles = self.roles or roles_in(row, self.columns)
        name = "/".join(str(row[key]) for key in columns.id) or "series"
        stamp = self.stamp(row, name)
        keys = (*columns.values, *columns.past, *columns.future)
        cells = [number(row.get(key), key, name) for key in keys]
        if name not in self.kept:
            if np.isnan(cells[0]):
                return  # a series begins with its first value
            static = {key: text_or_number(row.get(key)) for key in columns.static}
            self.kept[name] = Kept(stamp, static=static)
        one = self.kept[name]
        place, fits = self.frequency.index(np.array([stamp]), one.start)
        if not fits[0]:
            raise DataError(f"series {name}: {row} is off the grid ({self.frequency.name})", hint="round its time")
        if one.places and place[0] <= one.places[-1]:
            raise DataError(f"series {name}: {row} does not come after the row before it", hint="sort rows by time")
        one.places.append(int(place[0]))
        one.cells.append(cells)
        newest = max((p for p, c in zip(one.places, one.cells, strict=True) if not np.isnan(c[0])), default=0)
        while one.places and one.places[0] <= newest - self.memory:
            one.places.pop(0)
            one.cells.pop(0)

    def stamp(self, row: Mapping[str, Any], name: str) -> int:
        """The stamp of a row; the number of the row within its series where there is no time."""
        key = None if self.roles is None else self.roles.time
        if key is None:
            self.steps[name] = self.steps.get(name, -1) + 1
            return self.steps[name]
        value = row.get(key)
        if isinstance(value, str) and not self.frequency.has_calendar:
            value = int(value)
        fine = self.frequency.unit == "microsecond" and self.frequency.count < DAY
        return int(parse_stamps(pl.Series(key, [value]), fine=fine)[0][0])

    def series(self) -> list[Series]:
        """What is kept, as series; the last value is there, rows behind it only tell the future covariates."""
        found: list[Series] = []
        pasts = len(self.columns.past)
        for name, one in self.kept.items():
            first = one.places[0]
            grid = np.full((one.places[-1] - first + 1, len(one.cells[0])), np.nan)
            grid[np.array(one.places) - first] = one.cells
            last = int(np.flatnonzero(~np.isnan(grid[:, 0]))[-1]) + 1
            start = int(self.frequency.stamps(one.start, np.array([first]))[0])
            past, future = grid[:last, 1 : 1 + pasts], grid[:, 1 + pasts :]
            found.append(Series(name, start, self.frequency, grid[:last, 0], past, future, one.static))
        return found

    def pack(self) -> bytes:
        """All rows kept, as bytes."""
        values: dict[str, Any] = {"steps": self.steps, "series": []}
        arrays: dict[str, np.ndarray] = {}
        for number_, (name, one) in enumerate(self.kept.items()):
            values["series"].append({"name": name, "start": one.start, "static": one.static})
            arrays[f"places.{number_}"] = np.array(one.places, dtype=np.int64)
            arrays[f"cells.{number_}"] = np.array(one.cells, dtype=np.float64)
        return packing.pack(KIND, values, arrays)

    @classmethod
    def unpack(cls, state: bytes, columns: Columns, frequency: Frequency, memory: int) -> "Rows":
        """The inverse of pack. Raises DataError where the bytes are not such rows."""
        values, arrays = packing.unpack(KIND, state)
        rows = cls(columns, frequency, memory)
        try:
            rows.steps = {str(name): int(step) for name, step in values["steps"].items()}
            for place, one in enumerate(values["series"]):
                places, cells = arrays[f"places.{place}"].tolist(), arrays[f"cells.{place}"].tolist()
                rows.kept[str(one["name"])] = Kept(int(one["start"]), places, cells, dict(one["static"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"these bytes are not the rows of a forecaster: {error}") from None
        return rows


def read_rows(source: BinaryIO) -> Iterator[dict[str, Any]]:
    """Rows of a CSV with a header line, or JSON lines, each as soon as its line is complete.

    Raises DataError naming the line that is neither.
    """
    header: list[str] | None = None
    delimiter = ","
    for number, raw in enumerate(iter(source.readline, b""), start=1):
        line = raw.decode("utf-8-sig", errors="replace").strip("\r\n")
        if not line.strip():
            continue
        if header is None and line.lstrip().startswith("{"):
            yield json_row(line, number)
        elif header is None:
            delimiter = max(",;\t|", key=line.count)
            header = next(csv.reader([line], delimiter=delimiter))
        else:
            cells = next(csv.reader([line], delimiter=delimiter))
            if len(cells) != len(header):
                raise DataError(f"line {number} has {len(cells)} cells, the header has {len(header)}: {line!r:.80}")
            yield {key: None if cell in MISSING else cell for key, cell in zip(header, cells, strict=True)}


def json_row(line: str, number: int) -> dict[str, Any]:
    """One line of JSON as a row."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"line {number} is not a JSON object: {line!r:.80}")
    return row


def roles_in(row: Mapping[str, Any], columns: Columns) -> Columns:
    """All roles filled from the names and cells of one row. Raises DataError where it is not clear."""
    named = {*columns.past, *columns.future, *columns.static, *columns.id, *columns.values}
    time = columns.time or next((key for key in row if key.lower() in TIMES), None)
    left = [key for key in row if key not in named and key != time]
    ids = columns.id or tuple(key for key in left if key.lower() in IDS or is_word(row[key]))
    left = [key for key in left if key not in ids]
    usual = [key for key in left if key.lower() in VALUES]
    values = columns.values or (tuple(usual[:1]) if usual else tuple(left))
    if len(values) != 1:
        raise DataError(f"which is the value in {dict(row)}?", hint="call it value, or train with value_column")
    return dataclasses.replace(columns, id=ids, time=time, values=values)


def is_word(cell: Any) -> bool:
    """Whether a cell is a text that is no number and not empty."""
    if not isinstance(cell, str) or cell.strip() in MISSING:
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def number(cell: Any, key: str, name: str) -> float:
    """A cell as a number; NaN where it is empty."""
    if cell is None or (isinstance(cell, str) and cell.strip() in MISSING):
        return np.nan
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise DataError(f"series {name}: {key} is {cell!r}, which is no number") from None
    if np.isinf(value):
        raise DataError(f"series {name}: {key} is {cell!r}, which is not finite")
    return value


def text_or_number(cell: Any) -> str | float:
    """A static covariate as it came."""
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return float(cell)
    return "?" if cell is None else str(cell)
