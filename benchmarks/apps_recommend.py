"""Next-item recommendation, all items ranked: Amazon Beauty leave one out, and MovieLens latest-small by time.

    python benchmarks/apps_recommend.py DATA [--task beauty] [--seed 0] [--choose]

DATA is the folder amazon_beauty, or with --task movielens the folder movielens_latest_small. Writes
results/apps_recommend.json. Items a user has had are not ranked. Without --choose: trains once and scores test. With
--choose: other settings, and the chosen ones, on validation only. The data are for research: nothing trained here is
part of a release.

beauty (22,363 users, 12,101 items): the last item of each user is the test, the one before it validation, the rest is
learned from; for the test the validation item is a part of the history.

movielens (604 users): the last tenth of all events in time is the test, the last tenth of what is before
it validation, and all before that is learned from. Each event is asked about knowing the same user's earlier ones; of
who begins later the first event is given. A movie that nobody rated before counts as missed.
"""

import argparse
import dataclasses
import json
import lzma
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast.apps.recommend import Recommender
from holdfast.parts.events.history import History, split_by_time
from holdfast.parts.events.reading import Columns, read_histories
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run

RESULTS = Path(__file__).parent / "results" / "apps_recommend.json"
# HR@10 and NDCG@10 on the same file and split. S3-Rec: github.com/RUCAIBox/CIKM2020-S3Rec, all_rank; "CE": training
# logs of github.com/Li-fAngyU/sequential_rec, full softmax at every position.
PUBLISHED = {
    "GRU4Rec as commonly quoted (S3-Rec)": {"HR@10": 0.0283, "NDCG@10": 0.0137},
    "GRU4Rec, CE": {"HR@10": 0.0692, "NDCG@10": 0.0392},
    "SASRec, BCE (S3-Rec)": {"HR@10": 0.0605, "NDCG@10": 0.0318},
    "SASRec, CE": {"HR@10": 0.0923, "NDCG@10": 0.0568},
    "S3-Rec pretrained, CE": {"HR@10": 0.1058, "NDCG@10": 0.0629},
}


@dataclass(frozen=True)
class Parts:
    """What is learned from, and what is asked about: the held events of each history."""

    learned: list[History]
    held: list[History]  # validation
    test: list[History]


@dataclass(frozen=True)
class Task:
    """A data set with its settings."""

    load: Callable[[Path], Parts]
    app: Recommender
    recipe: Recipe
    others: dict[str, dict[str, Any]]  # tried on validation: settings and parts of the recipe that differ


def beauty(folder: Path) -> Parts:
    """Leave one out: every user's items in the order of time."""
    with lzma.open(folder / "Beauty.txt.xz", "rt", encoding="utf-8") as file:
        rows = [line.split() for line in file]
    users = [History(user, tuple(items)) for user, *items in rows]
    return Parts(
        [one.until(len(one) - 2) for one in users],
        [dataclasses.replace(one.until(len(one) - 1), held=1) for one in users],
        [dataclasses.replace(one, held=1) for one in users],
    )


def movielens(folder: Path) -> Parts:
    """By time; every rating is an event, whatever the number of stars."""
    before, test = split_by_time(read_histories(folder / "ratings.csv.xz", Columns()))
    return Parts(*split_by_time(before), test)


TASKS = {
    "beauty": Task(
        beauty,
        Recommender(members=3),
        Recommender.recipe,
        {
            "one network": {"members": 1},
            "width 64": {"width": 64},
            "hidden 256": {"hidden": 256},
            "two layers": {"layers": 2},
            "dropout 0.3": {"dropout": 0.3},
            "nothing forgotten": {"forgotten": 0.0},
        },
    ),
    "movielens": Task(
        movielens,
        Recommender(holdout="time"),
        dataclasses.replace(Recommender.recipe, steps=300, batch=64, validate_every=50),
        {
            "width and hidden 64": {"width": 64, "hidden": 64},
            "dropout 0.3": {"dropout": 0.3},
            "a third forgotten": {"forgotten": 0.33},
            "rate 0.001": {"learning_rate": 1e-3},
        },
    ),
}


def train(task: Task, parts: Parts, seed: int) -> tuple[Model[Any, Any, Any, Any, Any, Any], float]:
    """The model of the best validation place, rules' weight and temperature found on validation; the seconds."""
    run = Run(task.app, parts.learned, parts.held, dataclasses.replace(task.recipe, seed=seed))
    for report in run:
        if report.valid is not None:
            print(
                f"  step {report.step}: loss {report.loss:.4f}, validation {report.valid:.4f}, {report.seconds:.0f} s",
                flush=True,
            )
    started = time.perf_counter()
    model = run.finish()
    return model, run.seconds + time.perf_counter() - started


def changed(task: Task, changes: dict[str, Any]) -> Task:
    """The task with other settings."""
    known = {field.name for field in dataclasses.fields(task.app)}
    ours = {name: value for name, value in changes.items() if name in known}
    theirs = {name: value for name, value in changes.items() if name not in known}
    return dataclasses.replace(
        task, app=dataclasses.replace(task.app, **ours), recipe=dataclasses.replace(task.recipe, **theirs)
    )


def validation(task: Task, parts: Parts, seed: int) -> dict[str, Any]:
    model, _ = train(task, parts, seed)
    return {"scores": model.evaluate(parts.held), "weight": model.codec.weight}


def test(task: Task, parts: Parts, seed: int) -> dict[str, Any]:
    model, seconds = train(task, parts, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        size = path.stat().st_size
    return {
        "scores": model.evaluate(parts.test),
        "questions": sum(one.held for one in parts.test),
        "weight": model.codec.weight,
        "temperature": model.codec.temperature,
        "train_seconds": seconds,
        "weights": sum(p.numel() for p in model.net.parameters()),
        "model_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=TASKS, default="beauty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    task = TASKS[given.task]
    parts = task.load(given.data)
    if given.choose:
        for name, changes in {"chosen": {}, **task.others}.items():
            found = validation(changed(task, changes), parts, given.seed)
            print(name, json.dumps(found, indent=1), flush=True)
            record(
                given.task, lambda kept, name=name, found=found: kept.setdefault("validation", {}).update({name: found})
            )
        return
    found = test(task, parts, given.seed)
    print(json.dumps(found, indent=1))
    settings = {"settings": dataclasses.asdict(task.app), "recipe": dataclasses.asdict(task.recipe)}
    command = "benchmarks/apps_recommend.py DATA" + ("" if given.task == "beauty" else f" --task {given.task}")
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    machine["cpu"] = platform.processor() or platform.machine()
    record(
        given.task,
        lambda kept: kept.update(
            {"test": found, "seed": given.seed, "command": command, **settings, "machine": machine}
        ),
    )


def record(task: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what is recorded of a task."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    change(results.setdefault(task, {}))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
