"""Messages from a pipe, as soon as their lines are complete: plain lines, JSON lines or a table."""

import csv
import itertools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, cast

from ..errors import DataError
from ..table import arriving
from .chatting import Said
from .conversation import Turn
from .pairs import decoded
from .transcripts import TEXTS, Columns, Row, delimiter_of, join, named, of_objects, row_of, turns_of


class Lines(Protocol):
    """What makes something of lines."""

    def read(self, line: str, number: int) -> list[Said]:
        """What is said on a line. Raises DataError naming its number."""
        ...


def arriving_turns(source: BinaryIO, columns: Columns) -> Iterator[Said]:
    """What is said, line by line. Raises DataError naming the line."""
    reader: Lines | None = None
    rest, number = b"", 0
    for data in itertools.chain(arriving(source), [b""]):
        *complete, rest = (rest + data).split(b"\n")
        if not data and rest:
            complete.append(rest)
        for raw in complete:
            number += 1
            line = decoded(raw, number)
            if reader is None and not line.strip():
                continue
            if reader is None:
                reader = reader_of(line, columns)
                if isinstance(reader, Table):
                    continue
            yield from reader.read(line, number)
    if reader is None:
        raise DataError("standard input held nothing", hint="a message per line is read from there")


def reader_of(line: str, columns: Columns) -> Lines:
    """By what the first line looks like."""
    if line.lstrip().startswith("{"):
        return Objects(columns)
    delimiter = delimiter_of(line)
    names = [name.strip() for name in line.split(delimiter)]
    known = (columns.text,) if columns.text is not None else TEXTS
    return Table(names, delimiter, columns) if any(name in known for name in map(plain, names)) else PlainLines()


def plain(name: str) -> str:
    return name.strip().strip('"').lower()


class PlainLines:
    """A message of the user on each; behind an empty one another conversation begins."""

    def __init__(self) -> None:
        self.conversation, self.begun = 1, False

    def read(self, line: str, number: int) -> list[Said]:
        if line.strip():
            self.begun = True
            return [Said(str(self.conversation), Turn("user", line.strip()))]
        if not self.begun:
            return []
        self.conversation, self.begun = self.conversation + 1, False
        return [Said(str(self.conversation - 1), None)]


class Table:
    """Rows below a header."""

    def __init__(self, names: list[str], delimiter: str, columns: Columns) -> None:
        self.names, self.delimiter, self.number = [name.strip('"') for name in names], delimiter, 0
        self.columns = columns.found_in(self.names, "standard input")

    def read(self, line: str, number: int) -> list[Said]:
        if not line.strip():
            return []
        self.number += 1
        cells = next(csv.reader([line], delimiter=self.delimiter))
        row = row_of(dict(zip(self.names, cells, strict=False)), self.columns, f"standard input, line {number}")
        return said(row, self.number)


class Objects:
    """A JSON object on each line: a message, or a conversation."""

    def __init__(self, columns: Columns) -> None:
        self.columns, self.number = columns, 0

    def read(self, line: str, number: int) -> list[Said]:
        if not line.strip():
            return []
        self.number += 1
        where = f"standard input, line {number}"
        try:
            value: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: it is not JSON: {error.msg}") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}: it is no JSON object but {line[:40]!r}")
        one = cast(dict[str, Any], value)
        if turns_of(one) is not None:
            found = of_objects([one], self.columns, where, self.number)
            return [Said(each.name, turn) for each in found for turn in each.turns]
        return said(row_of(one, self.columns.found_in(list(one), where), where), self.number)


def said(row: Row, number: int) -> list[Said]:
    """What a row says; the number names its conversation where nothing else does."""
    turns: list[Turn] = []
    join(turns, row)
    return [Said(named(row, number, row.speaker is None), turn) for turn in turns]
