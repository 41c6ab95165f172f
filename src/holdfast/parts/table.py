"""Tables: CSV, Parquet and JSON files and anybody's data frames -> polars, and rows -> files."""

import csv
import gzip
import io
import itertools
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import narwhals as nw
import polars as pl

from .errors import DataError, SettingError, did_you_mean

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-", "?"]  # how people write "no value"
LOOKED_AT = 10_000  # rows whose types stand for all, as long as they do
KINDS = ("csv", "json", "jsonl", "parquet")


def read_table(source: Any, *, dates: bool = True) -> pl.DataFrame:
    """A path (.csv .tsv .jsonl .parquet, also .gz and .xz) or a pandas, polars or arrow frame -> a polars frame.

    The delimiter of a CSV is found by looking at its first line. With ``dates=False`` its dates stay texts: a guess at
    01/02/2024 cannot be taken back. Raises DataError naming the file.
    """
    if isinstance(source, (str, Path)):
        return read_file(Path(source), dates=dates)
    try:
        frame = nw.from_native(source)
    except nw.exceptions.DuplicateError as error:
        raise DataError(f"the table has two columns of one name: {error}", hint="rename or drop one") from None
    except TypeError:
        raise DataError(
            f"a {type(source).__name__} is not a table", hint="hand in a path, or a pandas, polars or arrow data frame"
        ) from None
    frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
    return pl.from_arrow(frame.to_arrow())  # pyright: ignore[reportReturnType]  a table always gives a frame


def read_file(path: Path, *, dates: bool = True) -> pl.DataFrame:
    """A table from a file, by its ending."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="check the path" if not path.exists() else "name a file in it")
    raw = path.read_bytes()
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if suffixes and suffixes[-1] in (".gz", ".xz"):
            raw = gzip.decompress(raw) if suffixes.pop() == ".gz" else lzma.decompress(raw)
        kind = suffixes[-1] if suffixes else ".csv"
        if kind == ".parquet":
            return pl.read_parquet(io.BytesIO(raw))
        if kind in (".jsonl", ".ndjson"):
            return pl.read_ndjson(io.BytesIO(raw), infer_schema_length=None)
        if kind == ".json":
            return pl.DataFrame(json.loads(raw), infer_schema_length=None)
        return read_csv(raw, dates=dates)
    except DataError as error:
        raise DataError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}", hint=error.hint) from None
    except (pl.exceptions.PolarsError, ValueError, EOFError, OSError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None


def read_csv(raw: bytes, *, dates: bool = True) -> pl.DataFrame:
    """A CSV with a header line, whatever its delimiter. Raises DataError naming the row that cannot be read."""
    raw = as_utf8(raw)
    head = raw[:65536].decode("utf-8", errors="replace").splitlines()
    if not head:
        raise ValueError("it is empty")
    delimiter = max(",;\t|", key=head[0].count)
    try:
        return parse(raw, delimiter, LOOKED_AT, dates=dates)
    except pl.exceptions.ComputeError:  # a row further down does not fit the types of the first ones
        pass
    try:
        return parse(raw, delimiter, None, dates=dates)
    except pl.exceptions.ComputeError:
        refuse_ragged(raw, delimiter)
        raise


def as_utf8(raw: bytes) -> bytes:
    """Text as UTF-8: UTF-16 with its mark is turned into it, what else is not UTF-8 is refused with its row."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return raw.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise DataError(f"it begins as UTF-16 but is not: {error.reason}", hint="save it as UTF-8") from None
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        shown = raw[error.start : error.start + 1].hex()
        raise DataError(
            f"line {line} is not UTF-8 (byte 0x{shown})",
            hint="save it as UTF-8; from Latin-1: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv",
        ) from None
    return raw


def choose_column(
    names: Sequence[str], given: str | None, known: Sequence[str], where: str, endings: Sequence[str] = ("id",)
) -> str | None:
    """The column a user named, or the first known name among a table's columns, whatever its spelling.

    A known name may also carry one of the ``endings``: "user" stands for "User ID" too.
    """
    if given is not None:
        if given not in names:
            raise DataError(f"{where} has no column {given!r}{did_you_mean(given, names)}")
        return given
    plain = {name: "".join(letter for letter in name.lower() if letter.isalnum()) for name in names}
    for wanted in known:
        for name, spelled in plain.items():
            if spelled in (wanted, *(f"{wanted}{ending}" for ending in endings)):
                return name
    return None


def refuse_ragged(raw: bytes, delimiter: str) -> None:
    """Raise DataError naming the first row that has more cells than the header."""
    rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), delimiter=delimiter)
    width = len(next(rows, []))
    for number, cells in enumerate(rows, start=1):
        if len(cells) > width:
            raise DataError(
                f"row {number} has {len(cells)} cells, the header has {width}",
                hint=f"quote cells that hold a {delimiter!r}, or drop what is too many",
            )


def arriving(source: BinaryIO) -> Iterator[bytes]:
    """Bytes as they come in, without waiting for a full buffer."""
    read1 = getattr(source, "read1", None)
    while data := (read1(65536) if read1 is not None else source.readline()):
        yield data


def arriving_lines(source: BinaryIO) -> Iterator[tuple[bytes, list[bytes], int]]:
    """A table that is still being written: (header line, the complete lines that came, line number of the first)."""
    header, rest, row = b"", b"", 2
    for data in itertools.chain(arriving(source), [b""]):
        *lines, rest = ((rest + data) if data else (rest + b"\n")).split(b"\n")
        lines = [line for line in lines if line.strip()]
        if not header and lines:
            header, *lines = lines
        if lines:
            yield header, lines, row
            row += len(lines)
    if row == 2:
        but = f" but a header, {header.decode(errors='replace').strip()[:60]!r}" if header else ""
        raise DataError(f"standard input held no rows{but}", hint="a header line, then one row after the other")


def parse(raw: bytes, delimiter: str, look_at: int | None, *, dates: bool) -> pl.DataFrame:
    """A CSV whose types are told by its first ``look_at`` rows; None: by all of them, which is much slower."""
    return pl.read_csv(
        raw,
        separator=delimiter,
        null_values=MISSING,
        infer_schema_length=look_at,
        try_parse_dates=dates,
        encoding="utf8",
    )


def write_rows(
    rows: Sequence[Mapping[str, Any]], target: Path | TextIO, kind: str = "csv", *, header: bool = True
) -> None:
    """Rows of one table to a file or an open text stream, as CSV, a JSON list, JSON lines or Parquet.

    ``header=False`` leaves the CSV's first line out: a table goes on.
    """
    if kind not in KINDS:
        raise SettingError(f"tables are not written as {kind!r}", hint=f"known: {', '.join(KINDS)}")
    if isinstance(target, Path):
        if kind == "parquet":
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(target)
            return
        with target.open("w", newline="", encoding="utf-8") as file:
            write_rows(rows, file, kind)
        return
    if kind == "parquet":
        raise SettingError("Parquet goes to a file, not to a pipe", hint="name one with -o FILE.parquet")
    if kind == "csv":
        if rows:
            table = csv.DictWriter(target, fieldnames=list(rows[0]), lineterminator="\n")
            if header:
                table.writeheader()
            table.writerows(rows)
    elif kind == "jsonl":
        target.writelines(json.dumps(dict(row), default=str) + "\n" for row in rows)
    else:
        target.write(json.dumps([dict(row) for row in rows], default=str, indent=1) + "\n")
