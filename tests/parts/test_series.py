"""Series: from the tables people have, in whatever layout, onto a regular grid; or refused, with the rows named."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.parts.errors import DataError
from holdfast.parts.series.arriving import Rows, read_rows
from holdfast.parts.series.columns import Columns
from holdfast.parts.series.frequency import DAY, HOUR, MINUTE, WEEK, Frequency
from holdfast.parts.series.series import Series, read_series
from holdfast.parts.table import read_table

MONTHLY, DAILY = Frequency("month", 1), Frequency("microsecond", DAY)


def read(frame: object, **columns: object) -> list[Series]:
    return read_series(read_table(frame), Columns(**columns))  # pyright: ignore[reportArgumentType]


def dates(first: str, count: int, step: str) -> list[str]:
    unit = step[-1]
    return [str(np.datetime64(first) + np.timedelta64(int(step[:-1]) * n, unit)) for n in range(count)]


@pytest.mark.parametrize(
    ("times", "frequency", "after"),
    [
        (dates("2023-12-29", 9, "1D"), DAILY, "2024-01-07"),
        (dates("2024-01-03", 6, "7D"), Frequency("microsecond", WEEK), "2024-02-14"),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11", "2024-01-12"],
         Frequency("business day", 1), "2024-01-15"),
        (["2023-11", "2023-12", "2024-01", "2024-03"], MONTHLY, "2024-04-01"),
        (["2023-11-15", "2023-12-15", "2024-01-15"], MONTHLY, "2024-02-15"),
        (["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29"], Frequency("month end", 1), "2024-03-31"),
        (["2023Q3", "2023Q4", "2024Q1"], Frequency("month", 3), "2024-04-01"),
        (["2023-06-30", "2023-09-30", "2023-12-31"], Frequency("month end", 3), "2024-03-31"),
        (["1999-01-01", "2000-01-01", "2001-01-01"], Frequency("month", 12), "2002-01-01"),
        (dates("2024-02-28T22:00", 5, "1h"), Frequency("microsecond", HOUR), "2024-02-29 03:00:00"),
        (dates("2024-02-28T23:45", 5, "15m"), Frequency("microsecond", 15 * MINUTE), "2024-02-29 01:00:00"),
        (["31.12.2023", "01.01.2024", "02.01.2024"], DAILY, "2024-01-03"),
        (["01/31/2024", "02/01/2024", "02/02/2024"], DAILY, "2024-02-03"),
        ([202311, 202312, 202401], MONTHLY, "2024-02-01"),
        ([20231231, 20240101, 20240102], DAILY, "2024-01-03"),
        ([1990, 1991, 1992], Frequency("step", 1), 1993),
        ([0, 10, 20, 40], Frequency("step", 10), 50),
    ],
)  # fmt: skip
def test_frequency_is_found_and_goes_on(times: list[str] | list[int], frequency: Frequency, after: str | int) -> None:
    [one] = read(pl.DataFrame({"when": times, "value": np.arange(1.0, len(times) + 1)}), time="when")
    assert one.frequency == frequency
    assert frequency.text(one.stamps(len(one.values), 1)) == [after]


@given(st.sampled_from(["month", "month end", "business day"]), st.integers(0, 20000), st.integers(0, 200))
def test_stamps_and_places_are_inverse(unit: str, day: int, place: int) -> None:
    start = np.datetime64(day, "D")
    if unit == "business day":
        start = np.busday_offset(start, 0, roll="forward")
    if unit == "month":
        start = start.astype("datetime64[M]").astype("datetime64[D]") + day % 28
    if unit == "month end":
        start = (start.astype("datetime64[M]") + 1).astype("datetime64[D]") - 1
    frequency = Frequency(unit, 1)  # pyright: ignore[reportArgumentType]
    first = int(start.astype(np.int64)) * DAY
    places, fits = frequency.index(frequency.stamps(first, np.array([place, place + 3])), first)
    assert places.tolist() == [place, place + 3] and fits.all()


def test_long_wide_and_frames_agree(tmp_path: Path) -> None:
    times = dates("2024-01-01", 5, "1D")
    a, b = [1.0, 2.0, None, 4.0, 5.0], [7.0, 8.0, 9.0, 10.0, None]
    long = pl.DataFrame({"shop": ["a"] * 5 + ["b"] * 5, "day": times * 2, "units": a + b})
    wide = pl.DataFrame({"day": times, "a": a, "b": b})
    path = tmp_path / "long.csv"
    long.sample(fraction=1.0, shuffle=True, seed=3).write_csv(path)
    wide.write_parquet(tmp_path / "wide.parquet")
    for source in (long, wide, wide.to_pandas(), long.to_arrow(), path, tmp_path / "wide.parquet"):
        found = {one.id: one for one in read(source)}
        np.testing.assert_array_equal(found["a"].values, [1, 2, np.nan, 4, 5])
        np.testing.assert_array_equal(found["b"].values, [7, 8, 9, 10])  # it ends where its values end
        assert found["b"].start == int(np.datetime64("2024-01-01", "us").astype(np.int64))


def test_rows_as_in_m4_and_tables_without_times() -> None:
    rows = pl.DataFrame({"V1": ["H1", "H2"], "V2": [5.0, 1.0], "V3": [6.0, 2.0], "V4": [None, 3.0]})
    assert [(one.id, one.values.tolist()) for one in read(rows)] == [("H1", [5, 6]), ("H2", [1, 2, 3])]
    long = pl.DataFrame({"id": ["b", "a", "b", "a", "b"], "value": [1, 10, 2, 20, 3]})
    found = read(long)
    assert [(one.id, one.values.tolist()) for one in found] == [("b", [1, 2, 3]), ("a", [10, 20])]
    assert found[0].frequency == Frequency("step", 1)


def test_columns_that_tell_series_apart_only_together() -> None:
    days = [day for day in dates("2024-01-01", 3, "1D") for _ in range(4)]
    frame = pl.DataFrame({"store": ["n", "n", "s", "s"] * 3, "item": [1, 2, 1, 2] * 3, "date": days, "y": range(12)})
    assert [one.id for one in read(frame)] == ["n/1", "n/2", "s/1", "s/2"]


def test_gaps_are_missing_and_covariates_reach_ahead() -> None:
    frame = pl.DataFrame({
        "date": ["2024-03-01", "2024-03-02", "2024-03-05", "2024-03-06", "2024-03-07"],
        "sales": [3, 4, 7, None, None], "price": [1.0, 2.0, 5.0, 6.0, 7.0], "rain": [9.0, 8.0, 7.0, 6.0, None],
        "kind": ["x"] * 5,
    })  # fmt: skip
    [one] = read(frame, values=("sales",), future=("price",), past=("rain",), static=("kind",))
    np.testing.assert_array_equal(one.values, [3, 4, np.nan, np.nan, 7])
    np.testing.assert_array_equal(one.future[:, 0], [1, 2, np.nan, np.nan, 5, 6, 7])
    np.testing.assert_array_equal(one.past[:, 0], [9, 8, np.nan, np.nan, 7])
    assert one.static == {"kind": "x"} and one.observed.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("frame", "columns", "words"),
    [
        ({"t": [1, 2, 2, 3], "y": [1.0, 2, 3, 4]}, {}, ["two values for one time", "row 3", "id"]),
        ({"date": ["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:10", "2024-01-01 03:00", "2024-01-01 04:00"],
          "y": [1.0, 2, 3, 4, 5]}, {}, ["hourly", "row 3", "02:10", "round"]),
        ({"date": ["2024-01-01", None], "y": [1.0, 2]}, {"time": "date"}, ["no time", "row 2"]),
        ({"date": ["2024-01-01", "2024-01-02"], "y": ["1", "two"]}, {"values": ("y",)}, ["no number", "row 2", "two"]),
        ({"date": ["2024-01-01", "2024-01-02"], "id": ["a", "a"], "sales": ["1", "n.v."]}, {}, ["row 2", "n.v."]),
        ({"date": ["2024-01-01", "2024-01-02"], "y": [1.0, np.inf]}, {}, ["no number", "row 2"]),
        ({"date": ["01/02/2024", "02/02/2024"], "y": [1.0, 2]}, {}, ["month/day", "2024-01-31"]),
        ({"date": ["soon", "later"], "y": [1.0, 2]}, {"time": "date"}, ["'soon'", "2024-01"]),
        ({"a": ["u", "u"], "b": ["v", "w"], "date": ["2024-01-01", "2024-01-02"], "y": [1.0, 2]}, {},
         ["a, b", "id_column"]),
        ({"id": ["u", "u"], "date": ["2024-01-01", "2024-01-02"], "p": [1.0, 2], "q": [1, 2]}, {},
         ["p, q", "value_column"]),
        ({"date": ["2024-01-01", "2024-01-02"], "y": [1.0, 2]}, {"values": ("yy",)}, ["'yy'", "did you mean 'y'"]),
        ({"date": ["2024-01-01"], "y": [1.0]}, {}, ["no series has two rows"]),
        ({"date": ["2024-01-01", "2024-01-02", "2224-01-01"], "y": [1.0, 2, 3]}, {}, ["3 rows on a grid", "row 3"]),
        ({"date": ["2024-01-01", "2024-01-02", "2924-01-01"], "y": [1.0, 2, 3]}, {}, ["year 2924", "row 3"]),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_words(
    frame: dict[str, list[object]], columns: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        read(pl.DataFrame(frame, strict=False), **columns)
    for word in words:
        assert word in str(error.value)


def test_rows_one_by_one_give_the_same_series_and_forget_old_ones() -> None:
    text = "id,time,value\n" + "".join(
        f"{name},{time},{n * 3 + len(name)}\n" for n, time in enumerate(dates("2024-01-01", 30, "1D")) for name in "ab"
        if n not in (4, 25)
    )  # fmt: skip
    whole = read(pl.read_csv(io.StringIO(text)))
    rows = Rows(Columns(), DAILY, memory=11)
    for number, row in enumerate(read_rows(io.BytesIO(text.encode()))):
        rows.add(row)
        if number == 33:
            rows = Rows.unpack(rows.pack(), Columns(), DAILY, memory=11)
    for one, kept in zip(whole, rows.series(), strict=True):
        assert one.id == kept.id and len(kept.values) == 11
        np.testing.assert_array_equal(one.values[-11:], kept.values)
        assert kept.stamps(10, 1)[0] == one.stamps(29, 1)[0]
    with pytest.raises(DataError, match="does not come after"):
        rows.add({"id": "a", "time": "2024-01-05", "value": 1})
    with pytest.raises(DataError, match="off the grid"):
        rows.add({"id": "a", "time": "2024-02-05 10:00", "value": 1})


def test_roles_of_rows_are_found_as_in_a_table() -> None:
    rows = Rows(Columns(values=("passengers",)), MONTHLY, memory=9)
    for month in ("2024-01", "2024-02", "2024-03"):
        rows.add({"region": "north", "month": month, "passengers": "12.5"})
    [one] = rows.series()
    assert one.id == "north" and one.values.tolist() == [12.5] * 3
    with pytest.raises(DataError, match="which is the value"):
        Rows(Columns(), MONTHLY, memory=9).add({"month": "2024-01", "a": 1, "b": 2})


def test_rows_of_json_lines_and_bad_lines() -> None:
    lines = b'\xef\xbb\xbf{"id": "a", "time": 3, "value": 1.5}\n\n{"id": "a", "time": 4, "value": null}\n'
    assert list(read_rows(io.BytesIO(lines))) == [
        {"id": "a", "time": 3, "value": 1.5},
        {"id": "a", "time": 4, "value": None},
    ]
    with pytest.raises(DataError, match="line 2 is not JSON"):
        list(read_rows(io.BytesIO(b'{"id": 1}\n{"id": \n')))
    with pytest.raises(DataError, match="line 3 has 2 cells, the header has 3"):
        list(read_rows(io.BytesIO(b"id;time;value\na;1;2\na;2\n")))


def from_text(folder: Path, text: str, **columns: object) -> list[Series]:
    (folder / "a.csv").write_text(text)
    return read_series(read_table(folder / "a.csv", dates=False), Columns(**columns))  # pyright: ignore[reportArgumentType]


DAYS = dates("2024-01-01", 60, "1D")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date,value\n01/02/2024,1\n02/02/2024,2\n", ["month/day"]),
        ("date,value\n01-02-2024,1\n02-02-2024,2\n", ["month/day"]),
        ("date,value\n31.12.24,1\n30.12.24,2\n", ["two digits"]),
        ("date,value\nJan 18,1\nFeb 18,2\n", ["two digits"]),
        ("date,value\n0024-01-01,1\n0024-01-02,2\n", ["year 24", "rows 1, 2"]),
        ("date,value\n2024-01-01,1\n01/02/2024,2\n", ["01/02/2024", "row 2"]),
        ("date,value\n" + "".join(f"{'2024-02-31' if n == 40 else day},{n}\n" for n, day in enumerate(DAYS)),
         ["2024-02-31", "row 41"]),
        ("date,value,value\n2024-01-01,1,2\n", ["'value' twice"]),
        ("2024-01-01,1.5\n2024-01-02,2.5\n", ["not like column names"]),
        ("0,1.5\n1,2.5\n", ["not like column names"]),
        ("id,date,value\na,2024-01-01,1\n,2024-01-02,2\n", ["'id'", "row 2"]),
        ("id,date,value\n" + "".join(f"d,{day},1\n" for day in DAYS)
         + "".join(f"m,2024-0{month}-01,1\n" for month in range(1, 9)), ["series d is daily", "series m is monthly"]),
    ],
)  # fmt: skip
def test_files_that_would_be_misread_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        from_text(tmp_path, text)
    for word in words:
        assert word in str(error.value)


def test_a_static_column_that_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'k' is not one value but changes in row 2"):
        from_text(tmp_path, "id,date,value,k\na,2024-01-01,1,x\na,2024-01-02,2,y\n", static=("k",))


def test_names_of_months_row_numbers_and_columns_called_value(tmp_path: Path) -> None:
    [one] = from_text(tmp_path, "date,value\nJan 2018,1\nFeb 2018,2\nMar 2018,3\n")
    assert one.frequency == MONTHLY and MONTHLY.text(one.stamps(0, 1)) == ["2018-01-01"]
    [one] = from_text(tmp_path, ",date,value\n" + "".join(f"{n},{day},{n}\n" for n, day in enumerate(DAYS)))
    assert one.frequency == DAILY and len(one.values) == 60
    for names in ("value,price", "sales,value"):
        found = from_text(tmp_path, f"date,{names}\n" + "".join(f"{day},1,2\n" for day in DAYS))
        assert [one.id for one in found] == names.split(",")


def test_time_zones_keep_days_whole(tmp_path: Path) -> None:
    days = [f"2024-03-{day}T00:00:00+01:00" for day in range(28, 32)] + ["2024-04-01T00:00:00+02:00"]
    [one] = from_text(tmp_path, "date,value\n" + "".join(f"{day},1\n" for day in days))
    assert one.frequency == DAILY and len(one.values) == 5 and DAILY.text(one.stamps(0, 1)) == ["2024-03-28"]
    hours = ["2024-10-27T01:00+02:00", "2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00", "2024-10-27T03:00+01:00"]
    [one] = from_text(tmp_path, "date,value\n" + "".join(f"{hour},1\n" for hour in hours))
    assert one.frequency == Frequency("microsecond", HOUR) and len(one.values) == 4


def test_irregular_times_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [day for n, day in enumerate(DAYS) if n % 5 == 0 or n in (1, 2, 6, 7, 11, 12, 22, 23, 33)]
    from_text(tmp_path, "date,value\n" + "".join(f"{day},1\n" for day in rows))
    assert "miss more than 30 %" in caplog.text
