"""What is special about activity recognition: windows, gaps, rates, timelines, and people kept apart."""

import dataclasses
import io
import itertools
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.apps.activity import ActivityRecognizer
from holdfast.parts.errors import DataError, SettingError
from holdfast.parts.sensors import framing, inertial, timeline
from holdfast.parts.sensors.recording import Recording
from holdfast.parts.sensors.timeline import Timeline
from holdfast.training.application import Recipe, collect
from holdfast.training.model import Model

SMALL = ActivityRecognizer(filters=9, hidden=7, members=2, smooth=1)


def made(count: int, seed: int = 0) -> list[Recording]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    """A model that has learned a little, in about two seconds."""
    recipe = Recipe(steps=50, batch=32, learning_rate=1e-2, validate_every=25)
    return SMALL.fit(made(5), made(2, seed=1), recipe)


def at_rate(recording: Recording, rate: float) -> Recording:
    """The same movement, sampled at another rate by straight lines."""
    assert recording.labels is not None
    times = np.arange(recording.times[0], recording.times[-1], 1 / rate)
    samples = [np.interp(times, recording.times, channel) for channel in recording.samples.T]
    labels = recording.labels[np.searchsorted(recording.times, times, side="right") - 1]
    return dataclasses.replace(
        recording, times=times, samples=np.stack(samples, axis=1).astype(np.float32), labels=labels
    )


def right(recording: Recording, output: Timeline) -> float:
    """The share of a recording's time that is told rightly."""
    truth, guess = timeline.seconds_of([(recording, output)])
    return float((truth == guess).mean())


def test_it_learns_and_stands_beside_its_baselines() -> None:
    scores = model().evaluate(made(3, seed=2))
    assert list(scores) == ["holdfast", "linear", "majority"]
    assert scores["holdfast"]["accuracy"] > 0.9 > scores["majority"]["accuracy"]
    assert right(made(1, seed=3)[0], model().predict(made(1, seed=3))[0]) > 0.85  # borders are blurred by the window


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    rate=st.sampled_from([31.0, 50.0, 100.0]),
    smooth=st.integers(0, 2),
    hole=st.integers(100, 900),
)
def test_pushed_in_any_chunks_a_stream_says_what_predict_says(
    cuts: list[int], rate: float, smooth: int, hole: int
) -> None:
    recording = at_rate(made(1, seed=4)[0].cut(0, 1300), rate)
    times = recording.times.copy()
    times[hole:] += 2.0  # a gap that ends a stretch
    recording = dataclasses.replace(recording, times=times)
    used = model().using(smooth=smooth)
    (whole,) = used.predict([recording])
    stream = used.stream()
    parts: list[Timeline] = []
    edges = [0, *sorted(min(cut, len(recording)) for cut in cuts), len(recording)]
    for first, end in itertools.pairwise(edges):
        parts += stream.push(recording.cut(first, end))
        heard, stream = stream.state(), used.stream()  # goes on in another process
        stream.restore(heard)
    (joined,) = timeline.join(parts + stream.flush())
    np.testing.assert_allclose(joined.starts, whole.starts, atol=1e-9)
    np.testing.assert_allclose(joined.ends, whole.ends, atol=1e-9)
    np.testing.assert_allclose(joined.probabilities, whole.probabilities, atol=1e-5)  # float32 in other batches
    assert used.rows(parts + stream.flush())[0].keys() == {"start", "end", "label", "probability"}


def test_an_answer_comes_after_a_fixed_delay() -> None:
    recording, stream = made(1)[0], model().stream()
    said = [sum(len(part) for part in stream.push(recording.cut(n, n + 1))) for n in range(1000)]
    when = np.flatnonzero(said)
    assert set(np.asarray(said)[when]) == {1}  # one step at a time
    # the first step ends at 64 samples; its last window begins one hop later and ends at 192; 12 are for resampling
    assert when[0] + 1 == 192 + 12
    assert set(np.diff(when)) == {64}


def test_a_step_is_the_mean_of_the_windows_around_it() -> None:
    net, codec = model().net, model().codec
    recording = made(1)[0].cut(0, 128 + 5 * 64 + 40)  # six windows and a rest
    (output,) = model().predict([recording])
    assert len(output) == 8
    assert output.ends[-1] == pytest.approx(recording.times[-1] + 0.02)
    starts = np.arange(6) * 64
    windows = np.stack([recording.samples[n : n + 128] for n in starts])
    with torch.inference_mode():
        each = net(torch.from_numpy(windows)).double().softmax(-1).mean(0).numpy()
    each = each ** (1 / codec.temperature)
    each /= each.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        output.probabilities[3], each[1:5].mean(axis=0), atol=1e-5
    )  # 2 cover it, 1 more each way
    np.testing.assert_allclose(output.probabilities[7], each[5], atol=1e-5)  # after the last whole window


def test_predict_is_the_same_alone_and_among_others() -> None:
    recordings = made(3, seed=6)
    together = model().predict(recordings)
    alone = model().predict([recordings[1]])[0]
    np.testing.assert_allclose(together[1].probabilities, alone.probabilities, atol=1e-5)


@pytest.mark.parametrize("rate", [25.0, 100.0, 200.0])
def test_the_rate_of_a_recording_hardly_matters(rate: float) -> None:
    recording = made(1, seed=7)[0]
    (same,) = model().predict([recording])
    (other,) = model().predict([at_rate(recording, rate)])
    agree = np.mean(same.best[: len(other)] == other.best[: len(same)])
    assert agree > 0.9  # a step on a border may go the other way


def test_examples_at_another_rate_are_learned_from_at_the_models_rate(tmp_path: Path) -> None:
    slow = [at_rate(recording, 31.0) for recording in made(2)]
    (batch,) = SMALL.batches(model().codec, SMALL.encode(model().codec, slow), 999, None)
    write(slow[0], tmp_path / "a.csv")
    write(slow[1], tmp_path / "b.csv")
    read = SMALL.read(tmp_path)
    assert len(read[0]) == pytest.approx(len(slow[0]) * 50 / 31, abs=2)
    (same,) = SMALL.batches(model().codec, SMALL.encode(model().codec, read), 999, None)
    torch.testing.assert_close(same.x, batch.x, rtol=0, atol=1e-4)  # times went through the digits of a CSV


def test_an_interval_does_not_reach_across_a_gap() -> None:
    starts = np.array([0.0, 1.0, 2.0, 7.0, 8.0])
    sure = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    rows = SMALL.rows([Timeline("r", ("a", "b"), starts, starts + 1.0, sure)])
    assert [(row["start"], row["end"], row["label"], row["probability"]) for row in rows] == [
        (0.0, 2.0, "a", 0.8),
        (2.0, 3.0, "b", 0.8),
        (7.0, 9.0, "b", 0.8),
    ]


def test_no_person_is_on_both_sides() -> None:
    recordings = [dataclasses.replace(r, person=f"p{n % 4}") for n, r in enumerate(made(9))]
    train, valid = SMALL.split(recordings, np.random.default_rng(1))
    assert len(train) + len(valid) == 9
    assert not {r.person for r in train} & {r.person for r in valid}


def test_with_one_wearer_the_ends_of_the_stretches_are_held_out() -> None:
    (recording,) = made(1)
    train, valid = SMALL.split([recording], np.random.default_rng(1))
    assert SMALL.labels_of(train) == SMALL.labels_of(valid) == {"sitting", "standing", "walking"}
    times = np.concatenate([part.times for part in train + valid])
    assert len(np.unique(times)) == len(times)


def test_windows_stay_inside_their_label_and_within_gaps() -> None:
    times = np.concatenate([np.arange(350) / 50, 9 + np.arange(150) / 50])  # a gap at 350, inside an "a"
    labels = np.array(["a"] * 190 + ["b"] * 110 + ["a"] * 180 + [""] * 20)
    recording = Recording("r", ("x",), times, np.zeros((500, 1), np.float32), labels)
    found = framing.frames([recording], 50.0, 100, 40)
    assert [(frame.start, frame.label) for frame in found] == [(0, "a"), (40, "a"), (80, "a"), (190, "b"), (350, "a")]
    rng = np.random.default_rng(0)
    moved = {framing.shifted(found[1], 60, rng).start for _ in range(500)}
    assert (min(moved), max(moved)) == (0, 90)


def test_the_upright_does_not_care_how_the_device_lies() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 40, 7)).astype(np.float32)
    x[..., 1] += 9.81
    channels = ("gyro_x", "acc_y", "acc_x", "acc_z", "gyro_y", "gyro_z", "heart")
    triads = inertial.find_triads(channels, x.mean(axis=1))
    assert [triad.axes for triad in triads] == [(0, 4, 5), (2, 1, 3)]
    assert [triad.up for triad in triads] == [1, 1]
    turned = inertial.turn(x, triads, degrees=90.0, rng=rng)
    assert np.abs(turned - x)[..., :6].max() > 1
    np.testing.assert_array_equal(turned[..., 6], x[..., 6])
    seen = [inertial.upright(torch.from_numpy(each), triads).numpy() for each in (x, turned)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-4)  # float32 at 10 m/s^2


def test_training_needs_labels_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mute.csv"
    write(dataclasses.replace(made(1)[0], labels=None), path)
    with pytest.raises(DataError, match="mute: nothing is labelled"):
        SMALL.fit(path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    write(made(1)[0].cut(0, 90), path)
    with pytest.raises(DataError, match=r"short lasts 1\.80 s"):
        model().predict(path)
    (recording,) = made(1)
    other = dataclasses.replace(recording, channels=("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "light"))
    with pytest.raises(DataError, match="no channel 'gyro_z'"):
        model().predict([other])
    with pytest.raises(DataError, match="'standin' was not learned; did you mean 'standing'"):
        model().evaluate([dataclasses.replace(recording, labels=np.full(len(recording), "standin"))])
    with pytest.raises(SettingError, match="no multiple of hop"):
        ActivityRecognizer(window=2.0, hop=0.7)


def test_gaps_in_a_file_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (recording,) = made(1)
    samples = recording.samples.copy()
    samples[500:520, 2] = np.nan
    path = tmp_path / "holes.csv"
    write(dataclasses.replace(recording, samples=samples), path)
    (read,) = SMALL.read(path)
    assert np.isfinite(read.samples).all()
    assert "holes: rows without a measurement: 20; gaps filled by a straight line: 1;" in caplog.text
    assert read.person == "made-up-0"


def test_a_pipe_gives_what_the_file_gives(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    write(at_rate(made(1)[0], 40.0), path)
    (whole,) = model().predict(path)
    pieces = model().application.pieces(io.BytesIO(path.read_bytes()))
    (joined,) = timeline.join(list(collect(model().stream(), pieces)))
    np.testing.assert_allclose(joined.probabilities, whole.probabilities, atol=1e-5)


def test_rows_and_pictures(tmp_path: Path) -> None:
    recordings = made(2, seed=8)
    outputs = model().predict(recordings)
    rows = model().rows(outputs)
    assert list(rows[0]) == ["recording", "start", "end", "label", "probability"]
    for before, after in itertools.pairwise(rows):
        assert before["recording"] != after["recording"] or (
            before["end"] == after["start"] and before["label"] != after["label"]
        )
    dated = [dataclasses.replace(recordings[0], dated=True, times=recordings[0].times + 86400.5)]
    assert model().rows(model().predict(dated))[0]["start"] == "1970-01-02 00:00:00.500"
    for known in (recordings, [dataclasses.replace(r, labels=None) for r in recordings]):
        picture = tmp_path / "picture.png"
        model().application.draw(known, outputs).savefig(picture, dpi=40)
        assert picture.stat().st_size > 5000


def write(recording: Recording, path: Path) -> None:
    """A recording as a CSV of the kind people have."""
    frame = pl.DataFrame(recording.samples, schema=list(recording.channels), orient="row")
    frame = frame.with_columns(pl.Series("time", recording.times), pl.lit(recording.person).alias("person"))
    if recording.labels is not None:
        frame = frame.with_columns(pl.Series("label", recording.labels.tolist()))
    frame.with_columns(pl.selectors.float().fill_nan(None)).write_csv(path)


def test_the_official_windows_of_hapt_come_out(shared_data: Path) -> None:
    folder = shared_data / "hapt_har"
    if not folder.is_dir():
        pytest.skip("hapt_har is not among the real data on this machine")
    segments = pl.read_csv(folder / "segments.csv").filter(pl.col("subject").is_in([2, 4, 9, 10, 12, 13, 18, 20, 24]))
    with lzma.open(folder / "signals_6xN_int16.npy.xz") as file:
        signals = np.load(file)
    recordings = []
    for row in segments.iter_rows(named=True):
        part = signals[:, row["offset"] : row["offset"] + row["length"]].T.astype(np.float32)
        times, labels = np.arange(len(part)) / 50, np.full(len(part), str(row["activity"]))
        recordings.append(Recording("", ("ax", "ay", "az", "gx", "gy", "gz"), times, part, labels))
    labels = [frame.label for frame in framing.frames(recordings, 50.0, 128, 64)]
    assert len(labels) == 3162
    assert sum(int(label) <= 6 for label in labels) == 2996


@pytest.mark.parametrize("value", [1e30, 3e38, -1e20])
def test_absurd_values_give_probabilities_and_a_warning(value: float, caplog: pytest.LogCaptureFixture) -> None:
    (recording,) = made(1, seed=2)
    model().predict([recording])
    model().evaluate([recording])
    assert not [record for record in caplog.records if "lies far" in record.message]
    samples = recording.samples.copy()
    samples[300:900, 1] = value
    wrong = dataclasses.replace(recording, samples=samples)
    (output,) = model().predict([wrong])
    assert np.isfinite(output.probabilities).all()
    np.testing.assert_allclose(output.probabilities.sum(axis=1), 1, atol=1e-5)
    assert all(np.isfinite(list(row.values())).all() for row in model().evaluate([wrong]).values())
    told = [record.message for record in caplog.records if "lies far" in record.message]
    assert len(told) == 1 and f"'{recording.channels[1]}'" in told[0]
    if abs(value) >= 1e30:
        with pytest.raises(DataError, match=f"channel '{recording.channels[1]}' reaches"):
            SMALL.prepare([wrong])


def test_a_far_lower_rate_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow, fine = at_rate(made(1)[0], 20.0), at_rate(made(1)[0], 31.0)
    model().predict([fine])
    assert "samples per second come in" not in caplog.text
    stream = model().stream()
    for n in range(0, len(slow), 100):
        stream.push(slow.cut(n, n + 100))
        heard, stream = stream.state(), model().stream()
        stream.restore(heard)
    stream.flush()
    assert caplog.text.count("20 samples per second come in, less than half of the model's 50") == 1
    write(slow, tmp_path / "slow.csv")
    model().predict(tmp_path / "slow.csv")
    assert caplog.text.count("slow: 20 samples per second come in") == 1


def test_labels_that_are_not_learned_are_named(caplog: pytest.LogCaptureFixture) -> None:
    recordings = [dataclasses.replace(r, person=f"p{n}") for n, r in enumerate(made(2))]
    for recording in recordings:
        assert recording.labels is not None
        labels = recording.labels.astype("U20")
        labels[labels == "walking"] = " walking "
        labels[:50] = "jumping"
        labels[-500:] = "Walking"
        recording.labels[:] = labels
    found = SMALL.prepare(recordings)
    assert found.labels == ("Walking", "sitting", "standing", "walking")
    assert "the label 'jumping' is not learned: its longest run without a gap is 1.00 s" in caplog.text
    assert "'Walking' and 'walking' differ in case only" in caplog.text


def test_one_wearers_short_labels_are_learned_and_not_validated(caplog: pytest.LogCaptureFixture) -> None:
    (recording,) = made(1)
    assert recording.labels is not None
    recording.labels[:200] = "hop"  # one window and a half
    recording.labels[200:300] = "nod"
    train, valid = SMALL.split([recording], np.random.default_rng(1))
    assert "hop" in SMALL.labels_of(train) - SMALL.labels_of(valid)
    assert "'nod' is not learned" in caplog.text


def test_a_stream_too_short_for_an_answer_says_so() -> None:
    (recording,) = made(1)
    stream = model().stream()
    assert stream.flush() == []  # nothing came
    stream.push(recording.cut(0, 91))
    with pytest.raises(DataError, match=r"lasts 1\.80 s"):
        stream.flush()
    assert stream.flush() == []  # and ready for another
    for n in range(6):
        stream.push(dataclasses.replace(recording.cut(0, 91), times=recording.times[:91] + 9 * n))
    with pytest.raises(DataError, match=r"no 2\.56 s without a gap"):
        stream.flush()
    assert len(model().predict([recording.cut(0, 91)])[0]) == 0


def test_live_rows_are_steps_whatever_the_pieces() -> None:
    (recording,) = made(1, seed=5)
    printed: list[list[dict[str, Any]]] = []
    for size in (1, 77, 9999):
        stream = model().stream()
        pieces = [recording.cut(n, n + size) for n in range(0, len(recording), size)]
        printed.append([row for output in collect(stream, pieces) for row in model().rows([output])])
    for rows in printed:
        assert [{**row, "probability": 0} for row in rows] == [{**row, "probability": 0} for row in printed[0]]
        np.testing.assert_allclose([r["probability"] for r in rows], [r["probability"] for r in printed[0]], atol=2e-4)
    whole = model().rows(model().predict([recording]))
    runs = [list(run) for _, run in itertools.groupby(printed[0], key=lambda row: row["label"])]
    joined = [(run[0]["start"], run[-1]["end"], run[0]["label"]) for run in runs]
    assert joined == [(row["start"], row["end"], row["label"]) for row in whole]
