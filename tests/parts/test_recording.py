"""Reading recordings: columns are found, and what is wrong is named with file, row and column."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from holdfast.parts.errors import DataError
from holdfast.parts.sensors.recording import Columns, Recording, read_lines, read_recordings

HEADER = "Timestamp (ms),Acc X,acc_y,Activity,Subject ID\n"
ROWS = "0,0.1,1.5,walk,3\n20,0.2,,walk,3\n40,0.3,2.5,sit,3\n10,5,6,sit,4\n30,7,8,,4\n"


FIND = Columns()


def read_text(folder: Path, text: str, columns: Columns = FIND) -> list[Recording]:
    path = folder / "made.csv"
    path.write_text(text)
    return read_recordings(path, columns)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    three, four = read_text(tmp_path, HEADER + ROWS)
    assert three.channels == ("Acc X", "acc_y")
    assert (three.name, three.person, four.person) == ("made 3", "3", "4")
    np.testing.assert_allclose(three.times, [0, 0.02, 0.04])
    np.testing.assert_allclose(three.samples, [[0.1, 1.5], [0.2, np.nan], [0.3, 2.5]], rtol=1e-6)
    assert three.labels is not None and three.labels.tolist() == ["walk", "walk", "sit"]
    assert four.labels is not None and four.labels.tolist() == ["sit", ""]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_frames_are_taken(make: type) -> None:
    (recording,) = read_recordings(make({"t": [0.0, 0.5], "a": [1, 2], "label": ["x", "y"]}), Columns())
    np.testing.assert_array_equal(recording.samples, [[1], [2]])
    np.testing.assert_array_equal(recording.times, [0, 0.5])


def test_date_times_become_seconds(tmp_path: Path) -> None:
    (recording,) = read_text(tmp_path, "time,a\n1970-01-02 00:00:00.000,1\n1970-01-02 00:00:00.250,2\n")
    np.testing.assert_allclose(recording.times, [86400, 86400.25])
    assert recording.dated


def test_a_known_rate_stands_in_for_times(tmp_path: Path) -> None:
    (recording,) = read_text(tmp_path, "a;b\n1;2\n3;4\n5;6\n", Columns(rate=4.0))
    np.testing.assert_allclose(recording.times, [0, 0.25, 0.5])


def test_folders_name_labels_or_people(tmp_path: Path) -> None:
    for label in ("run", "rest"):
        (tmp_path / "a" / label).mkdir(parents=True)
        (tmp_path / "a" / label / "one.csv").write_text("t,x\n0,1\n1,2\n")
        (tmp_path / "b" / label).mkdir(parents=True)
        (tmp_path / "b" / label / "one.csv").write_text("t,x,label\n0,1,k\n1,2,k\n")
    rest, run = read_recordings(tmp_path / "a", Columns())
    assert rest.labels is not None and set(rest.labels) == {"rest"}
    assert (rest.name, run.name, run.person) == ("rest/one", "run/one", "")
    rest, run = read_recordings(tmp_path / "b", Columns())
    assert run.labels is not None and set(run.labels) == {"k"}
    assert (rest.person, run.person) == ("rest", "run")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\n1,2\n", Columns(), "made.csv has no time column among a, b"),
        ("t,b\n0,1\n1,high\n", Columns(), r"made.csv, row 3, column 'b': 'high' is not a number"),
        ("t,b\n0,1\n2,1\n1,1\n", Columns(), r"made.csv, row 4, column 't': time goes backwards, from 2.0* s to 1.0* s"),
        ("t,b\n7,1\n7,2\n7,3\n8,4\n", Columns(), "'t': 2 of 4 rows have the time of the row before"),
        ("t,b,trial\n0,1,p\n5,1,q\n2,1,p\n1,1,p\n", Columns(), r"row 5, column 't': time goes backwards, from 2.0"),
        ("t,b\n0,1\n,1\n", Columns(), r"made.csv, row 3, column 't': there is no time"),
        ("t,b\n0,\n1,\n", Columns(), "channel 'b' is empty in all 2 rows"),
        ("t,b\n", Columns(), "has no rows"),
        ("t,label\n0,x\n", Columns(), "has no sensor channels"),
        (
            "t,b\n0,1\n20,2\n40,3\n",
            Columns(),
            r"made.csv, column 't': there are only 0.05 samples .*\n.*--time-unit ms",
        ),
        ("t,b,labels\n0,1,x\n", Columns(label="lables"), "no column 'lables'; did you mean 'labels'?"),
        ("", Columns(), "is empty|no rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_text(tmp_path, text, columns)


def test_other_channels_in_another_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("t,x,y\n0,1,2\n1,1,2\n")
    (tmp_path / "two.csv").write_text("t,y,x\n0,5,6\n1,5,6\n")
    _, two = read_recordings(tmp_path, Columns())
    assert two.channels == ("x", "y")
    np.testing.assert_array_equal(two.samples[0], [6, 5])
    (tmp_path / "zoo.csv").write_text("t,y,z\n0,5,6\n1,5,6\n")
    with pytest.raises(DataError, match="one has the channel 'x' and zoo has not"):
        read_recordings(tmp_path, Columns())


class Drip(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.at = data, size, 0

    def read1(self, _: int) -> bytes:
        self.at += self.size
        return self.data[self.at - self.size : self.at]


@pytest.mark.parametrize("size", [1, 3, 17, 65536])
def test_lines_of_a_pipe_come_as_soon_as_they_are_complete(size: int) -> None:
    text = "t,x,y\n" + "".join(f"{n / 10},{n},{-n}\n" for n in range(25)) + "2.5,25,-25"  # no line end at the end
    pieces = list(read_lines(Drip(text.encode(), size), Columns()))  # pyright: ignore[reportArgumentType]
    assert len(pieces) == {1: 26, 65536: 2}.get(size, len(pieces))  # 2: the last line, which had no end
    np.testing.assert_allclose(np.concatenate([piece.times for piece in pieces]), np.arange(26) / 10)
    np.testing.assert_array_equal(np.concatenate([piece.samples[:, 1] for piece in pieces]), -np.arange(26))


def test_a_pipe_without_times_counts_its_rows() -> None:
    text = "x\n" + "".join(f"{n}\n" for n in range(9))
    pieces = list(read_lines(Drip(text.encode(), 4), Columns(rate=10.0)))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(np.concatenate([piece.times for piece in pieces]), np.arange(9) / 10)


def test_a_wrong_line_in_a_pipe_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match="standard input, row 4, column 'x': 'oops'"):
        list(read_lines(Drip(b"t,x\n0,1\n1,2\n2,oops\n", 3), Columns()))  # pyright: ignore[reportArgumentType]


def test_an_index_is_no_channel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(n, n / 50, np.sin(n)) for n in range(60)]
    for header, left_out in ((",t,x", "''"), ("Unnamed: 0,t,x", "'Unnamed: 0'"), ("row,t,x", "'row'")):
        text = header + "\n" + "".join(f"{n},{t},{x}\n" for n, t, x in rows)
        caplog.clear()
        (recording,) = read_text(tmp_path, text)
        assert recording.channels == ("x",)
        assert f"column {left_out}" in caplog.text
        caplog.clear()
        pieces = list(read_lines(io.BytesIO(text.encode()), Columns()))
        assert len(pieces) >= 1 and all("x" in piece.channels for piece in pieces)
        assert len(caplog.records) == 1
        samples = np.concatenate([piece.ordered(("x",)) for piece in pieces])
        np.testing.assert_array_equal(samples, recording.samples)
    one_more = "".join(f"{n + 1},{t},{x}\n" for n, t, x in rows)
    assert read_text(tmp_path, "row,t,x\n" + one_more)[0].channels == ("x",)
    assert read_text(tmp_path, "row,t,x\n" + one_more * 2, Columns(rate=50.0, time="t"))[0].channels == ("x",)
    bent = "".join(f"{n if n != 30 else 29},{t},{x}\n" for n, t, x in rows)
    assert read_text(tmp_path, "row,t,x\n" + bent)[0].channels == ("row", "x")
    assert read_text(tmp_path, "t,x\n" + "".join(f"{t},{n}\n" for n, t, _ in rows))[0].channels == ("x",)


@pytest.mark.parametrize(("unit", "step"), [("s", 0.02), ("ms", 20), ("us", 20_000), ("ns", 20_000_000)])
def test_the_unit_of_times_can_be_said(tmp_path: Path, unit: str, step: float) -> None:
    text = "time_ms,x\n" + "".join(f"{n * step},{n % 3}\n" for n in range(9))
    (recording,) = read_text(tmp_path, text, Columns(unit=unit))
    np.testing.assert_allclose(recording.times, np.arange(9) / 50, atol=1e-9)


def test_names_that_differ_in_case_are_told(tmp_path: Path) -> None:
    (recording,) = read_text(tmp_path, "t,Acc_X\n0,1\n1,2\n")
    with pytest.raises(DataError, match="no channel 'acc_x'; 'Acc_X' differs in case only"):
        recording.ordered(("acc_x",))


def test_what_float32_cannot_hold_was_not_measured(tmp_path: Path) -> None:
    (recording,) = read_text(tmp_path, "t,x\n0,1e39\n1,2\n")
    np.testing.assert_array_equal(recording.samples[:, 0], [np.nan, 2])


@pytest.mark.parametrize(
    ("raw", "message"), [(b"", "held no rows"), (b"\n \n", "held no rows"), (b"\x00\x01 what", "no rows but a header")]
)
def test_a_pipe_without_rows_is_an_error(raw: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"standard input.*{message}"):
        list(read_lines(io.BytesIO(raw), Columns()))
