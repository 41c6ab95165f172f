"""Which items may be recommended: those of a list, and those whose attributes are as wanted."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..errors import DataError, SettingError, did_you_mean
from ..table import choose_column, read_table
from .catalogue import Catalogue
from .reading import ITEMS, texts

SEVERAL = "|"  # stands between the values of a cell that has several
NUMERIC: dict[str, Callable[[Any, float], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FEW = 30  # values of an attribute that an error may list


@dataclass(frozen=True)
class Condition:
    """What an attribute has to be."""

    attribute: str
    sign: str  # = != < <= > >=
    value: str

    def holds(self, cells: pl.Series) -> np.ndarray:
        """[rows] bool. A cell with several values is equal to each of them; an empty one is no number and no value."""
        if self.sign in NUMERIC:
            numbers = cells.cast(pl.Float64, strict=False)
            return NUMERIC[self.sign](numbers, float(self.value)).fill_null(False).to_numpy()
        if cells.dtype.is_numeric() and is_number(self.value):
            alike = (cells == float(self.value)).fill_null(False).to_numpy()
        else:
            alike = np.array(
                [self.value in values_of(cell) for cell in cells.cast(pl.String).fill_null("")], dtype=bool
            )
        return alike if self.sign == "=" else ~alike


def is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) is not None


def values_of(cell: str) -> list[str]:
    return [value.strip() for value in cell.split(SEVERAL)]


def condition_of(text: str) -> Condition:
    """genre=Comedy, genre!=Horror, price<=20. Raises SettingError."""
    match = re.fullmatch(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", text)
    if match is None:
        raise SettingError(
            f"--where {text!r} is not a condition", hint="write genre=Comedy, genre!=Horror or price<=20"
        )
    attribute, sign, value = match.groups()
    if sign in NUMERIC and not is_number(value):
        raise SettingError(f"--where {text!r}: {value!r} is not a number", hint=f"{sign} compares numbers")
    return Condition(attribute, sign, value)


def allowed_items(codec: Catalogue, among: str | None, items: str | None, where: Sequence[str]) -> np.ndarray | None:
    """Numbers of the items that a list and a table with conditions leave, rising; None: all. Raises DataError.

    ``among`` is a file with one item per line, ``items`` a table with a column of items and one per attribute.
    """
    conditions = [condition_of(text) for text in where]
    if conditions and items is None:
        raise SettingError("--where needs a table of items", hint="name it with --items items.csv")
    found: np.ndarray | None = None
    if among is not None:
        found = known(codec, listed(Path(among)), among)
    if items is not None:
        chosen = known(codec, chosen_items(Path(items), conditions), items)
        found = chosen if found is None else np.intersect1d(found, chosen)
        if not found.size:
            raise DataError(f"no item of {among} is among those that {items} leaves", hint="one of the two is to go")
    return found


def known(codec: Catalogue, names: Sequence[str], where: str) -> np.ndarray:
    """Numbers of items that the model knows, rising."""
    numbers = np.unique(codec.numbered(names))
    numbers = numbers[numbers > 0]
    if not numbers.size:
        raise DataError(f"{where} names no item that the model knows", hint=f"one is {codec.items[0]!r}")
    return numbers


def listed(path: Path) -> list[str]:
    """The lines of a file."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="--among names a file with one item per line")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def chosen_items(path: Path, conditions: Sequence[Condition]) -> list[str]:
    """The items of a table that meet all conditions. Raises DataError where a column is missing or no item is left."""
    table = read_table(path, dates=False)
    column = choose_column(table.columns, None, ITEMS, str(path))
    if column is None:
        hint = "call it item, product, movie or the like"
        raise DataError(f"{path} has no column of items among {', '.join(table.columns)}", hint=hint)
    fits = np.ones(table.height, dtype=bool)
    for one in conditions:
        if one.attribute not in table.columns:
            raise DataError(f"{path} has no column {one.attribute!r}{did_you_mean(one.attribute, table.columns)}")
        met = one.holds(table[one.attribute])
        if not met.any():
            values = {value for cell in table[one.attribute].cast(pl.String).drop_nulls() for value in values_of(cell)}
            said = did_you_mean(one.value, values) if one.sign == "=" and len(values) <= FEW else ""
            raise DataError(f"no item of {path} has {one.attribute}{one.sign}{one.value}{said}")
        fits &= met
    if not fits.any():
        raise DataError(f"no item of {path} meets all conditions", hint="leave one out")
    return [name for name, fit in zip(texts(table, column), fits, strict=True) if fit]
