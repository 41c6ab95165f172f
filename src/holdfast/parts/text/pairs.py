"""Sentences and their translations: tables, parallel text files and translation memories, from files and pipes."""

import csv
import gzip
import io
import itertools
import logging
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from ..errors import DataError
from ..table import arriving, as_utf8, choose_column, read_table
from .tmx import read_units

log = logging.getLogger("holdfast")

LANGUAGES: Final = (
    *("en", "eng", "english", "de", "deu", "ger", "german", "deutsch", "fr", "fra", "french", "es", "spa", "spanish"),
    *("it", "ita", "italian", "pt", "por", "portuguese", "nl", "nld", "dutch", "pl", "pol", "polish", "cs", "czech"),
    *("sv", "swedish", "da", "danish", "tr", "turkish", "ru", "rus", "russian", "uk", "ukrainian", "ar", "arabic"),
    *("zh", "chinese", "ja", "jpn", "japanese", "ko", "korean", "vi", "vietnamese", "hi", "hindi"),
)
SOURCES: Final = ("source", "src", "from", "input", "original")
TARGETS: Final = ("target", "tgt", "trg", "to", "translation", "reference", "output")
TABLES: Final = (".csv", ".tsv", ".tab", ".parquet", ".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Pair:
    """A line and its translation."""

    source: str
    target: str | None = None  # None: it is asked for


class Sides(NamedTuple):
    """Which column, or which language of a translation memory, is what. None: found by its name."""

    source: str | None = None
    target: str | None = None


class Places(NamedTuple):
    """Where a row has them."""

    source: int
    target: int | None
    begin: int  # rows of header

    def pair(self, cells: Sequence[str]) -> Pair:
        """Of one row; what is not there is empty."""
        there = self.target is not None and self.target < len(cells)
        source = cells[self.source] if self.source < len(cells) else ""
        return Pair(source.strip(), cells[self.target].strip() if there and self.target is not None else None)


def read_pairs(source: Any, sides: Sides) -> list[Pair]:
    """A file, a folder, several of either, or a data frame -> pairs, in order. Raises DataError naming file and row.

    Two text files handed in together are parallel: line by line the first one's translation is in the second.
    """
    if isinstance(source, (list, tuple)):
        paths = [Path(one) for one in cast(Sequence[str | Path], source)]
        if len(paths) == 2 and all(ending(path) not in (*TABLES, ".tmx") and path.is_file() for path in paths):
            return read_parallel(*paths)
        return [pair for path in paths for pair in read_pairs(path, sides)]
    if not isinstance(source, (str, Path)):
        return pairs_of_table(source, sides, "the table")
    path = Path(source)
    if path.is_dir():
        files = [one for one in sorted(path.iterdir()) if one.is_file() and ending(one) in (*TABLES, ".tmx")]
        if not files:
            hint = "two parallel text files are named one after the other: train.en train.de"
            raise DataError(f"{path} holds no tables and no translation memories", hint=hint)
        return [pair for one in files for pair in read_pairs(one, sides)]
    return read_file(path, sides)


def ending(path: Path) -> str:
    """What kind of file it is, packed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".xz"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def unpacked(path: Path) -> bytes:
    """A file's bytes. Raises DataError where it cannot be read."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="check the path")
    raw, kind = path.read_bytes(), path.suffix.lower()
    try:
        return gzip.decompress(raw) if kind == ".gz" else lzma.decompress(raw) if kind == ".xz" else raw
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def text_of(path: Path) -> str:
    """A text file. Raises DataError where it is empty or no UTF-8 text."""
    try:
        text = as_utf8(unpacked(path)).decode("utf-8-sig")
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    if "\0" in text:
        raise DataError(f"{path} is not text: it holds a zero byte", hint="hand in UTF-8 text")
    return text


def read_file(path: Path, sides: Sides) -> list[Pair]:
    """One file, by its ending."""
    kind = ending(path)
    if kind == ".tmx":
        return [Pair(*unit) for unit in read_units(unpacked(path), str(path), sides.source, sides.target)]
    if kind in (".parquet", ".json", ".jsonl", ".ndjson"):
        return pairs_of_table(path, sides, str(path))
    text = text_of(path)
    if kind == ".csv":
        head = text.split("\n", 1)[0]
        delimiter = max(",;\t|", key=head.count)
        try:
            rows = [
                cells for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if cells
            ]
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as CSV: {error}") from None
        return picked(rows, named(rows[0], sides, str(path)), str(path))
    rows = [line.split("\t") for line in lines_of(text)]
    return picked(rows, found_in(rows[0], sides, str(path)), str(path))


def lines_of(text: str) -> list[str]:
    """Lines as editors count them; only real line ends, unlike str.splitlines."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def picked(rows: Sequence[Sequence[str]], places: Places, where: str) -> list[Pair]:
    """The pairs of a table's rows. Raises DataError where there are none."""
    found = [places.pair(cells) for cells in rows[places.begin :]]
    if not found:
        raise DataError(f"{where} has no rows but a header")
    return found


def named(names: Sequence[str], sides: Sides, where: str) -> Places:
    """The columns of a header; of two columns the first is the source. Raises DataError where they are not found."""
    source = choose_column(names, sides.source, SOURCES, where)
    rest = [name for name in names if name != source]
    target = choose_column(rest, sides.target, TARGETS, where)
    if source is None:
        free = [name for name in names if name != target]
        languages = [name for name in free if name.strip().lower() in LANGUAGES] or (free if len(names) <= 2 else [])
        if not languages:
            hint = "name it with --source-column, and its translation with --target-column"
            raise DataError(f"{where} has no column of sources among {', '.join(names)}", hint=hint)
        source, *rest = languages
    if target is None:
        languages = [name for name in rest if name != source and name.strip().lower() in LANGUAGES]
        others = languages or (rest if len(names) == 2 else [])
        target = others[0] if others else None
    log.info("%s: from column %r to column %r", where, source, target)
    return Places(names.index(source), None if target is None else names.index(target), 1)


def found_in(first: Sequence[str], sides: Sides, where: str) -> Places:
    """Of lines with tabs: a header if it names a column that is known or wanted, else sources and translations."""
    known = (*SOURCES, *TARGETS, *LANGUAGES)
    is_header = any(cell.strip().lower() in known or cell in sides for cell in first)
    if len(first) > 1 and (is_header or sides.source is not None):
        return named(first, sides, where)
    if sides.source is not None and list(first) == [sides.source]:
        return Places(0, None, 1)
    return Places(0, 1 if len(first) > 1 else None, 0)


def read_parallel(source: Path, target: Path) -> list[Pair]:
    """Two files of as many lines."""
    left, right = (lines_of(text_of(path)) for path in (source, target))
    if len(left) != len(right):
        raise DataError(
            f"{source} has {len(left)} lines, {target} has {len(right)}",
            hint="line by line the second file must be the translation of the first",
        )
    return [Pair(a.strip(), b.strip()) for a, b in zip(left, right, strict=True)]


def pairs_of_table(source: Any, sides: Sides, where: str) -> list[Pair]:
    """A data frame, or a file that becomes one."""
    table = read_table(source, dates=False)
    places = named(table.columns, sides, where)
    chosen = [table.columns[place] for place in (places.source, places.target) if place is not None]
    columns = [["" if cell is None else str(cell) for cell in table[name].to_list()] for name in chosen]
    rows = list(zip(*columns, strict=True))
    return picked([chosen, *rows], Places(0, 1 if len(chosen) > 1 else None, 1), where)


def arriving_sources(source: BinaryIO, sides: Sides) -> Iterator[list[str]]:
    """Lines of a pipe as they are complete, several where several came; of lines with tabs the source's column."""
    places: Places | None = None
    rest, number = b"", 0
    for data in itertools.chain(arriving(source), [b""]):
        *complete, rest = (rest + data).split(b"\n")
        if not data and rest:
            complete.append(rest)
        if not complete:
            continue
        lines = [decoded(raw, number + n) for n, raw in enumerate(complete, start=1)]
        number += len(lines)
        rows = [line.split("\t") for line in lines]
        if places is None:
            places = found_in(rows[0], sides, "standard input")
            rows = rows[places.begin :]
        if rows:
            yield [places.pair(cells).source for cells in rows]
    if not number:
        raise DataError("standard input held nothing", hint="a line per sentence is read from there")


def decoded(raw: bytes, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        hint = "text in UTF-8 is read"
        raise DataError(f"line {number} of standard input is not UTF-8: {error.reason}", hint=hint) from None
