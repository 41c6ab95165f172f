"""The forecaster: learns, says how sure it is, takes gaps and strangers, and hears a stream as it hears the whole."""

import dataclasses
import io
import logging
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from holdfast.apps import application
from holdfast.apps.forecast import Forecaster, Outlook
from holdfast.parts.errors import DataError, SettingError
from holdfast.parts.quantiles import LEVELS
from holdfast.parts.series.backtest import last_origins, random_origins, say_plainly
from holdfast.parts.series.frequency import DAY, Frequency
from holdfast.parts.series.series import Series
from holdfast.parts.series.windows import Stack
from holdfast.training.application import Recipe, collect
from holdfast.training.model import Model, load

QUICK = Recipe(steps=150, batch=24, learning_rate=5e-3, validate_every=50, average=0.9)
SMALL = Forecaster(horizon=9, members=2, hidden=24)


@pytest.fixture(scope="module")
def shops() -> list[Series]:
    return SMALL.synthesize(5, np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(shops: list[Series]) -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit([one.until(len(one.values) - 9) for one in shops], recipe=QUICK)


def test_learns_and_beats_seasonal_naive(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    scores = model.using(windows=2).evaluate(shops)  # the newest of the two windows was never seen
    names = ["holdfast", "seasonal naive", "theta", "exponential smoothing", "naive2"]
    assert list(scores) == names
    assert scores["holdfast"]["MASE"] < scores["seasonal naive"]["MASE"]
    assert scores["holdfast"]["pinball"] < scores["seasonal naive"]["pinball"]
    assert 0.85 < scores["holdfast"]["coverage 95"] <= 1.0
    assert scores["naive2"]["OWA"] == pytest.approx(1.0)


def test_rows_and_picture(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    outputs = model.predict(shops[:2])
    rows = model.rows(outputs)
    assert list(rows[0]) == ["id", "time", "mean", "lo-80", "hi-80", "lo-95", "hi-95"] and len(rows) == 18
    assert rows[9]["id"] == "shop-1"
    for row in rows:
        assert 0 <= row["lo-95"] <= row["lo-80"] <= row["mean"] <= row["hi-80"] <= row["hi-95"]
    last = np.datetime64("2021-01-04") + len(shops[0].values)
    assert rows[0]["time"] == str(last) and rows[8]["time"] == str(last + 8)
    assert "q-0.5" in model.using(quantiles=True).rows(outputs)[0]
    picture = io.BytesIO()
    model.application.draw(shops[:2], outputs).savefig(picture)
    assert picture.getvalue().startswith(b"\x89PNG")


def test_alone_as_in_a_batch_and_memory_is_bounded(
    model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]
) -> None:
    together = model.predict(shops)
    alone = model.predict(shops[3:4])[0]
    np.testing.assert_allclose(alone.quantiles, together[3].quantiles, rtol=1e-5)  # float32 sums in another order
    memory = model.codec.memory
    strange = np.full(400, 1e6)  # older than anything that may matter
    longer = dataclasses.replace(
        shops[3], start=shops[3].start - 400 * DAY, values=np.concatenate([strange, np.tile(shops[3].values, 3)])
    )
    recent = dataclasses.replace(
        longer, start=longer.start + (len(longer.values) - memory) * DAY, values=longer.values[-memory:]
    )
    np.testing.assert_allclose(
        model.predict([longer])[0].quantiles, model.predict([recent])[0].quantiles, rtol=1e-6
    )  # fmt: skip


def test_gaps_short_and_unseen_series_give_numbers(
    model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]
) -> None:
    daily = Frequency("microsecond", DAY)
    holes = shops[0].values.copy()
    holes[5:-1:2] = np.nan
    holes[-30:-3] = np.nan
    strangers = [
        Series("holes", 0, daily, holes),
        Series("new", 0, daily, np.array([5.0])),
        Series("flat", 0, daily, np.full(80, 3.0)),
        Series("zeros", 0, daily, np.zeros(80)),
        dataclasses.replace(shops[1], id="huge", values=shops[1].values * 1e9),
        Series("gone", 0, daily, np.append(np.ones(3), np.append(np.full(300, np.nan), 4.0))),
    ]
    for one in model.predict(strangers):
        assert np.isfinite(one.quantiles).all() and np.isfinite(one.mean).all()
        assert (np.diff(one.quantiles, axis=1) >= 0).all()
    big, same = model.predict([strangers[4], dataclasses.replace(shops[1], id="other")])
    np.testing.assert_allclose(big.quantiles, same.quantiles * 1e9, rtol=1e-4)  # scale does not matter


def test_file_keeps_the_answers(
    model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series], tmp_path: Path
) -> None:
    model.save(tmp_path / "sales.safetensors")
    again = load(tmp_path / "sales.safetensors", application)
    assert again.application == model.application
    np.testing.assert_array_equal(again.predict(shops)[1].quantiles, model.predict(shops)[1].quantiles)


def test_same_seed_same_weights(shops: list[Series]) -> None:
    short = dataclasses.replace(QUICK, steps=5)
    first, again = (SMALL.fit(shops, recipe=short).net.state_dict() for _ in range(2))
    other = SMALL.fit(shops, recipe=dataclasses.replace(short, seed=1)).net.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_padding_and_missing_targets_have_no_gradient(shops: list[Series]) -> None:
    codec = SMALL.prepare(shops)
    net = SMALL.network(codec)
    batch = next(iter(SMALL.batches(codec, SMALL.encode(codec, shops), 3, np.random.default_rng(0))))
    assert batch.weight.shape[1] == 14 and (batch.weight[:, 9:] == 0).all()  # the horizon of 9 is padded to two weeks
    other = dataclasses.replace(batch, target=torch.where(batch.weight > 0, batch.target, torch.tensor(1e9)))
    net.eval()
    assert SMALL.loss(net, batch).total == SMALL.loss(net, other).total
    assert SMALL.loss(net, batch).count == int((batch.weight > 0).sum())


def test_split_is_by_time_and_windows_do_not_look_ahead(shops: list[Series]) -> None:
    train, valid = SMALL.split(shops, np.random.default_rng(0))
    for early, late in zip(train, valid, strict=True):
        assert len(early.values) == late.origin and len(late.values) - late.origin >= 9
    codec = SMALL.prepare(train)
    which, origins = last_origins(valid, codec.cut, 50)
    assert len(which) <= 50 and all(origins >= [valid[place].origin for place in which])
    changed = [dataclasses.replace(one, values=np.append(one.values[:100], one.values[100:] * 7)) for one in shops]
    past = [Stack(codec.cut, series).windows(np.array([2]), np.array([100])) for series in (shops, changed)]
    assert torch.equal(past[0].history, past[1].history) and torch.equal(past[0].bases, past[1].bases)
    assert not torch.equal(past[0].target, past[1].target)
    which, origins = random_origins(Stack(codec.cut, train), 64, 3, np.random.default_rng(1))
    lengths = np.array([len(one.values) for one in train])
    assert (origins >= 1).all() and (origins < lengths[which]).all()


def test_stream_gives_what_the_whole_gives(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    lines = [
        (stamp, f"{one.id},{stamp},{'' if np.isnan(value) else repr(float(value))}\n")
        for one in shops[:2]
        for stamp, value in zip(one.frequency.text(one.stamps(0, len(one.values))), one.values, strict=True)
    ]
    text = "id,time,value\n" + "".join(line for _, line in sorted(lines))
    pieces = list(model.application.pieces(io.BytesIO(text.encode())))
    whole = model.predict(pl.read_csv(io.StringIO(text)))
    live = list(collect(model.stream(), pieces))
    half = model.stream()
    for piece in pieces[:200]:
        assert half.push(piece) == []
    moved = model.stream()
    moved.restore(half.state())
    resumed = list(collect(moved, pieces[200:]))
    for outputs in (live, resumed):
        for one, other in zip(whole, outputs, strict=True):
            assert one.id == other.id and one.times == other.times
            np.testing.assert_allclose(one.quantiles, other.quantiles, rtol=1e-6)
    assert moved.flush() == []
    with pytest.raises(DataError):
        moved.restore(b"not a state")


def test_future_covariates_are_used() -> None:
    rng = np.random.default_rng(7)
    series = [promoted(f"s{n}", rng) for n in range(4)]
    application = Forecaster(horizon=6, future=("promo",), hidden=24, members=1, blend=False, season=1)
    model = application.fit(series, recipe=dataclasses.replace(QUICK, steps=400, learning_rate=0.01))
    with_plan, without = (dataclasses.replace(series[0], future=plan) for plan in plans(series[0]))
    high, low = model.predict([with_plan, without])
    assert high.median[2] > 1.5 * low.median[2]  # the truth is twice
    np.testing.assert_allclose(high.median[5], low.median[5], rtol=0.3)


def promoted(name: str, rng: np.random.Generator) -> Series:
    promo = (rng.random(160) < 0.3).astype(float)
    values = 50 * 2**promo * np.exp(0.05 * rng.normal(size=160))
    return Series(name, 0, Frequency("step", 1), values, future=promo[:, None])


def plans(one: Series) -> list[np.ndarray]:
    found = [np.concatenate([one.future, np.zeros((6, 1))]) for _ in range(2)]
    found[0][162] = 1.0
    return found


def test_shipped_series_are_read() -> None:
    folder = resources.files("holdfast") / "data"
    [airline] = Forecaster().read(Path(str(folder / "airline.csv")))
    assert airline.frequency == Frequency("month", 1) and airline.values.sum() == 40363 and len(airline.values) == 144
    [sunspots] = Forecaster().read(Path(str(folder / "sunspots.csv")))
    assert sunspots.frequency == Frequency("month", 12) and len(sunspots.values) == 235


def test_wrong_use_is_refused(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    with pytest.raises(DataError, match="is hourly; this model was trained on daily"):
        model.predict([Series("x", 0, Frequency("microsecond", DAY // 24), np.ones(50))])
    with pytest.raises(DataError, match="no series is long enough"):
        model.evaluate([shops[0].until(9)])
    with pytest.raises(DataError, match="one model per frequency"):
        SMALL.fit([*shops, Series("x", 0, Frequency("step", 1), np.ones(50))])
    with pytest.raises(SettingError, match="horizon"):
        Forecaster(horizn=3)  # pyright: ignore[reportCallIssue]


def test_says_plainly_where_a_baseline_is_better(caplog: pytest.LogCaptureFixture) -> None:
    table = {"holdfast": {"MASE": 1.2, "sMAPE": 9.0}, "seasonal naive": {"MASE": 1.1, "sMAPE": 10.0}}
    with caplog.at_level(logging.WARNING, "holdfast"):
        say_plainly(table)
    assert "seasonal naive is as good as this model or better" in caplog.text and "MASE" in caplog.text
    assert "sMAPE" not in caplog.text


def test_calibration_widens_what_is_too_narrow(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    codec: Outlook = model.codec
    assert codec.widening.shape == (9, len(LEVELS) // 2)
    wide = dataclasses.replace(codec, widening=codec.widening + 1.0)
    with torch.inference_mode():
        before, after = (SMALL.predict(model.net, facts, shops[:1])[0] for facts in (codec, wide))
    assert (after.interval(95)[1] > before.interval(95)[1]).all()
    np.testing.assert_allclose(after.median, before.median)


@pytest.mark.parametrize(
    ("unit", "count"),
    [
        ("step", 1),
        ("microsecond", DAY // 24),
        ("microsecond", DAY // 96),
        ("microsecond", 7 * DAY),
        ("business day", 1),
        ("month", 1),
        ("month end", 1),
        ("month", 3),
        ("month", 12),
    ],
)
def test_every_frequency_goes_through(unit: Any, count: int) -> None:
    frequency = Frequency(unit, count)
    day = "2019-01-28" if unit == "month" else "2019-01-31"
    start = int(np.datetime64(day, "us").astype(np.int64))
    rng = np.random.default_rng(3)
    series = [Series(f"s{n}", start, frequency, 20 + rng.normal(size=length)) for n, length in enumerate((70, 400))]
    model = Forecaster(members=1, hidden=7).fit(series, recipe=dataclasses.replace(QUICK, steps=3))
    assert model.codec.cut.horizon == frequency.horizon
    for one, output in zip(series, model.predict(series), strict=True):
        assert np.isfinite(output.quantiles).all()
        places, fits = frequency.index(one.stamps(len(one.values), frequency.horizon), start)
        assert fits.all() and places[0] == len(one.values)
        assert output.times == frequency.text(frequency.stamps(start, places))


def test_past_and_static_covariates_may_be_missing_later() -> None:
    rng = np.random.default_rng(5)
    step = Frequency("step", 1)
    series = [
        Series(f"s{n}", 0, step, 9 + rng.normal(size=60), past=rng.normal(size=(60, 1)),
               static={"kind": "ab"[n % 2], "size": float(n)})
        for n in range(4)
    ]  # fmt: skip
    application = Forecaster(horizon=5, past=("rain",), static=("kind", "size"), members=1, hidden=7)
    model = application.fit(series, recipe=dataclasses.replace(QUICK, steps=5))
    assert model.codec.cut.words == (("kind", "a"), ("kind", "b")) and model.codec.cut.numbers == ("size",)
    bare = dataclasses.replace(series[0], past=np.zeros((0, 0)), static={"kind": "never seen"})
    full, without = model.predict([series[0], bare])
    assert np.isfinite(without.quantiles).all() and not np.array_equal(full.quantiles, without.quantiles)


def test_unseen_scales_zeros_and_negative_values_in_logarithms(
    model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series], caplog: pytest.LogCaptureFixture
) -> None:
    assert model.codec.cut.logarithmic
    one = dataclasses.replace(shops[1], id="same")
    tenth, usual = model.predict([dataclasses.replace(one, values=one.values * 0.01), one])
    np.testing.assert_allclose(tenth.quantiles, usual.quantiles * 0.01, rtol=1e-4)
    assert not caplog.text
    zeros, debts = model.predict([
        dataclasses.replace(one, id="zeros", values=np.zeros(90)),
        dataclasses.replace(one, id="debts", values=-one.values),
    ])  # fmt: skip
    assert (zeros.quantiles == 0).all() and (debts.median < 0).all()
    assert "zeros, debts" in caplog.text and "exponential smoothing" in caplog.text


def test_gappy_series_stay_near_what_was_seen(model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series]) -> None:
    rng = np.random.default_rng(0)
    wild = dataclasses.replace(model.codec, widening=model.codec.widening + 40.0)
    values = shops[0].values * np.exp(rng.normal(size=len(shops[0].values)))
    values[1:-1][rng.random(len(values) - 2) < 0.8] = np.nan
    with torch.inference_mode():
        [one] = SMALL.predict(model.net, wild, [dataclasses.replace(shops[0], values=values)])
    assert one.quantiles.max() < 100 * np.nanmax(values)
    low, high = one.interval(80)
    assert (low <= one.mean).all() and (one.mean <= high).all()


def test_rows_keep_every_digit_and_what_is_not_used_is_said(
    model: Model[Any, Any, Any, Any, Any, Any], shops: list[Series], caplog: pytest.LogCaptureFixture
) -> None:
    [output] = model.predict(shops[:1])
    assert model.rows([output])[0]["mean"] == float(output.mean[0])
    Forecaster(season=500).prepare([Series("a", 0, Frequency("step", 1), np.arange(1.0, 81))])
    assert "two seasons of 500 steps" in caplog.text
    planned = [dataclasses.replace(one, future=np.ones((len(one.values), 1))) for one in shops[:1]]
    application = dataclasses.replace(SMALL, future=("promo",))
    application.fit(planned, recipe=dataclasses.replace(QUICK, steps=2)).predict(planned)
    assert "tell promo" in caplog.text
