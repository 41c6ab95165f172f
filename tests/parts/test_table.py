"""Tables: any delimiter, any container, any frame in; the same rows out; an error names the file."""

import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from holdfast.parts.errors import DataError, SettingError
from holdfast.parts.table import LOOKED_AT, read_table, write_rows

TEXT = "shop,day,sold\nnorth,2024-01-31,3\nsouth,2024-02-01,NA\n"
WANTED = [("north", "2024-01-31", 3), ("south", "2024-02-01", None)]


def rows(table: pl.DataFrame) -> list[tuple[Any, ...]]:
    return [(shop, str(day), sold) for shop, day, sold in table.iter_rows()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_delimiter(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "a.csv").write_text(TEXT.replace(",", delimiter))
    assert rows(read_table(tmp_path / "a.csv")) == WANTED


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert read_table(tmp_path / "a.csv").columns == ["shop", "day", "sold"]
    assert rows(read_table(tmp_path / "a.csv")) == WANTED


def test_containers(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(TEXT.encode()))
    read_table(tmp_path / "a.csv.gz").write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"shop": s, "day": d, "sold": n}) + "\n" for s, d, n in WANTED)
    )
    for path in tmp_path.iterdir():
        assert rows(read_table(path)) == WANTED, path.name


def test_frames() -> None:
    frame = pl.DataFrame(WANTED, schema=["shop", "day", "sold"], orient="row")
    for same in (frame, frame.lazy(), frame.to_arrow(), pd.DataFrame(frame.to_dicts())):
        assert [row[:2] for row in rows(read_table(same))] == [row[:2] for row in WANTED]


def test_a_type_that_only_shows_far_down(tmp_path: Path) -> None:
    lines = ["a", *["1"] * (LOOKED_AT + 5), "1.5", "x"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    assert read_table(tmp_path / "a.csv")["a"].to_list()[-2:] == ["1.5", "x"]
    (tmp_path / "a.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert read_table(tmp_path / "a.csv")["a"].to_list()[-1] == 1.5


@pytest.mark.parametrize("name", ["absent.csv", "folder", "bad.parquet", "bad.csv.gz", "bad.json"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for bad in ("bad.parquet", "bad.csv.gz", "bad.json"):
        (tmp_path / bad).write_bytes(b"\x00\x01nonsense")
    with pytest.raises(DataError, match=name):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="not a table"):
        read_table(object())


def test_rows_out(tmp_path: Path) -> None:
    table = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    for kind in ("csv", "json", "jsonl", "parquet"):
        write_rows(table, tmp_path / f"t.{kind}", kind)
        if kind != "json":
            assert read_table(tmp_path / f"t.{kind}").to_dicts() == table
    assert json.loads((tmp_path / "t.json").read_text()) == table
    stream = io.StringIO()
    write_rows(table[:1], stream)
    write_rows(table[1:], stream, header=False)
    assert stream.getvalue() == "a,b\n1,x\n2,y\n"
    with pytest.raises(SettingError, match="pipe"):
        write_rows(table, stream, "parquet")
    with pytest.raises(SettingError, match="known"):
        write_rows(table, stream, "xml")


def test_encodings_and_ragged_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT.encode("utf-16"))
    assert rows(read_table(tmp_path / "a.csv")) == WANTED
    (tmp_path / "a.csv").write_bytes("a,b\n1,2\nü,3\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv .*line 3 is not UTF-8(.|\n)*iconv"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"a\.csv .*row 2 has 3 cells, the header has 2"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(DataError, match="two columns of one name"):
        read_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
