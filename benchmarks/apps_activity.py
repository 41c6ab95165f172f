"""Activity recognition on HAPT (30 people, 50 Hz, phone at the waist), official split, official windows.

    python benchmarks/apps_activity.py DATA [--seed 0] [--choose]

DATA is the folder hapt_har. Writes results/apps_activity.json. Without --choose: trains on the 21 training people and
scores the nine test people. With --choose: three folds of the training people only, what settings were chosen by.
HAPT is for non-commercial use: nothing trained here is part of a release.
"""

import argparse
import dataclasses
import json
import lzma
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from holdfast.apps.activity import Activities, ActivityRecognizer
from holdfast.parts import classification
from holdfast.parts.sensors import framing, timeline
from holdfast.parts.sensors.recording import Recording
from holdfast.training.model import Model
from holdfast.training.run import Run

RESULTS = Path(__file__).parent / "results" / "apps_activity.json"
TEST = (2, 4, 9, 10, 12, 13, 18, 20, 24)  # people, official
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")  # g, radians per second
NAMES = (
    "walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying",
    "stand to sit", "sit to stand", "sit to lie", "lie to sit", "stand to lie", "lie to stand",
)  # fmt: skip
# github.com/takumiw/Deep-Learning-for-Human-Activity-Recognition, README, the same 6-class windows. Its deep models
# standardise each recording by its own statistics, which a live system does not have.
PUBLISHED = {"LightGBM, 621 features": 0.9633, "DeepConvLSTM": 0.9566, "CNN": 0.9529, "MLP": 0.9381}
APP = ActivityRecognizer(members=3)
RECIPE = dataclasses.replace(ActivityRecognizer.recipe, validate_every=1200)
CLASSES = (6, 12)


def load(folder: Path) -> tuple[list[Recording], list[Recording]]:
    """(labelled segments, whole experiments with their gaps), with the person in each."""
    with lzma.open(folder / "signals_6xN_int16.npy.xz") as file:
        raw = np.load(file).T
    samples = raw.astype(np.float32) * np.array([1 / 720] * 3 + [np.radians(0.14)] * 3, dtype=np.float32)
    segments, experiments = [], []
    for (experiment,), rows in pl.read_csv(folder / "segments.csv").group_by("experiment", maintain_order=True):
        parts = []
        for row in rows.iter_rows(named=True):
            part = samples[row["offset"] : row["offset"] + row["length"]]
            times = (row["label_start"] - 1 + np.arange(len(part))) / 50
            labels = np.full(len(part), NAMES[row["activity"] - 1])
            name, person = f"experiment {experiment}", str(row["subject"])
            parts.append(Recording(name, CHANNELS, times, part, labels, person))
        segments += parts
        joined = [np.concatenate([getattr(part, field) for part in parts]) for field in ("times", "samples", "labels")]
        experiments.append(dataclasses.replace(parts[0], times=joined[0], samples=joined[1], labels=joined[2]))
    return segments, experiments


def kept(recordings: list[Recording], people: list[str], classes: int) -> list[Recording]:
    """Segments of some people with the first classes."""
    return [r for r in recordings if r.person in people and r.labels is not None and r.labels[0] in NAMES[:classes]]


def train(
    app: ActivityRecognizer, examples: list[Recording], seed: int
) -> tuple[Model[Any, Any, Any, Any, Any, Any], float]:
    """The model after the last step, and the seconds of training. No test or validation person has a say."""
    run = Run(app, examples, [], dataclasses.replace(RECIPE, seed=seed))
    for report in run:
        if report.step % 100 == 0:
            print(f"  step {report.step}: loss {report.loss:.4f}, {report.seconds:.0f} s", flush=True)
    return run.finish(), run.seconds


def judged(model: Model[Any, Any, Any, Any, Any, Any], examples: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
    """(truth, probabilities) of the official windows, in the order of NAMES."""
    codec: Activities = model.codec
    truth, probabilities, _ = APP.judge(model.net, codec, examples)
    order = np.array([NAMES.index(label) for label in codec.labels])
    return order[truth], probabilities[:, np.argsort(order)]


def choose(segments: list[Recording], seed: int) -> dict[str, Any]:
    """Three folds of the training people, for each number of classes: pooled scores of one member, its temperature."""
    people = np.array(sorted({int(r.person) for r in segments} - set(TEST)))
    order = np.random.default_rng(7).permutation(people)
    one = dataclasses.replace(APP, members=1)  # to save time
    found: dict[str, Any] = {}
    for classes in CLASSES:
        pairs = []
        for fold in range(3):
            held = [str(person) for person in order[fold::3]]
            others = [str(person) for person in people if str(person) not in held]
            model, _ = train(one, kept(segments, others, classes), seed)
            pairs.append(judged(model, kept(segments, held, classes)))
        truth, probabilities = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        temperature = classification.best_temperature(truth, probabilities)
        found[str(classes)] = {**classification.scores(truth, probabilities), "temperature": temperature}
        print(classes, found[str(classes)], flush=True)
    return found


def test(
    segments: list[Recording], experiments: list[Recording], classes: int, seed: int, temperature: float
) -> dict[str, Any]:
    """Train on the 21 training people, score the nine others once."""
    people = {r.person for r in segments}
    tested = sorted(people & {str(person) for person in TEST}, key=int)
    before = time.process_time()
    model, seconds = train(APP, kept(segments, sorted(people - set(tested)), classes), seed)
    cpu_seconds = time.process_time() - before  # the wall clock also counts what others did on a shared machine
    codec = dataclasses.replace(model.codec, temperature=temperature)
    model = Model(model.application, codec, model.net, model.card)
    examples = kept(segments, tested, classes)
    truth, probabilities = judged(model, examples)
    path = RESULTS.with_name("activity.tmp.safetensors")
    model.save(path)
    size = path.stat().st_size
    path.unlink()
    return {
        "windows": len(truth),
        "scores": model.evaluate(examples),
        "confusion": classification.confusion(truth, probabilities.argmax(axis=1), classes).tolist(),
        "at_other_rates": {str(rate): at_rate(model, examples, rate) for rate in (20.0, 25.0, 31.25, 100.0)},
        "timeline": {str(smooth): timeline_accuracy(model, experiments, tested, smooth) for smooth in (0, 1, 2)},
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu_seconds, 1),
        "model_bytes": size,
        "weights": sum(p.numel() for p in model.net.parameters()),
    }


def at_rate(model: Model[Any, Any, Any, Any, Any, Any], examples: list[Recording], rate: float) -> float:
    """Accuracy when the test people's sensors had this rate and the model resamples them to its own."""
    found = []
    for example in examples:
        moved = framing.gridded(example, CHANNELS, rate, APP.gap)
        back = framing.gridded(moved, CHANNELS, APP.rate, APP.gap)
        found.append(back)
    truth, probabilities = judged(model, found)
    return classification.accuracy(truth, probabilities.argmax(axis=1))


def timeline_accuracy(
    model: Model[Any, Any, Any, Any, Any, Any], experiments: list[Recording], tested: list[str], smooth: int
) -> float:
    """The share of the test people's labelled time that the timeline tells rightly; classes unknown to it left out."""
    recordings = [r for r in experiments if r.person in tested]
    truth, guess = timeline.seconds_of(
        list(zip(recordings, model.using(smooth=smooth).predict(recordings), strict=True))
    )
    return classification.accuracy(truth, guess)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    segments, experiments = load(given.data)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    started = time.perf_counter()
    if given.choose:
        results["three_folds_of_the_training_people"] = choose(segments, given.seed)
    else:
        for classes in CLASSES:
            temperature = results["three_folds_of_the_training_people"][str(classes)]["temperature"]
            results[f"{classes} classes"] = test(segments, experiments, classes, given.seed, temperature)
            print(json.dumps(results[f"{classes} classes"], indent=1), flush=True)
        results |= {"published": PUBLISHED, "seed": given.seed, "command": "benchmarks/apps_activity.py DATA"}
        results |= {"settings": dataclasses.asdict(APP), "recipe": dataclasses.asdict(RECIPE)}
        results["machine"] = {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    print(f"{time.perf_counter() - started:.0f} s in all")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
