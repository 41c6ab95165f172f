"""Next-item recommendation on Amazon Beauty (22,363 users, 12,101 items), leave one out, all items ranked.

    python benchmarks/apps_recommend.py DATA [--seed 0] [--choose]

DATA is the folder amazon_beauty. Writes results/apps_recommend.json. The last item of each user is the test, the one
before it validation, the rest is learned from; for the test the validation item is a part of the history, and items a
user has had are not ranked. Without --choose: trains once and scores test. With --choose: other settings, and the
chosen ones, on validation only. The data are for research: nothing trained here is part of a release.
"""

import argparse
import dataclasses
import json
import lzma
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from holdfast.apps.recommend import Recommender
from holdfast.parts.events.history import History
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
APP = Recommender()
RECIPE = Recommender.recipe
OTHERS: dict[str, dict[str, Any]] = {
    "width 64": {"width": 64},
    "hidden 256": {"hidden": 256},
    "two layers": {"layers": 2},
    "dropout 0.3": {"dropout": 0.3},
    "nothing forgotten": {"forgotten": 0.0},
}


def load(folder: Path) -> list[History]:
    """Every user's items in the order of time."""
    with lzma.open(folder / "Beauty.txt.xz", "rt", encoding="utf-8") as file:
        rows = [line.split() for line in file]
    return [History(user, tuple(items)) for user, *items in rows]


def train(app: Recommender, users: list[History], seed: int) -> tuple[Model[Any, Any, Any, Any, Any, Any], float]:
    """The model of the best validation place, its share and temperature found on validation, and the seconds."""
    learned = [one.until(len(one) - 2) for one in users]
    held = [dataclasses.replace(one.until(len(one) - 1), held=1) for one in users]
    run = Run(app, learned, held, dataclasses.replace(RECIPE, seed=seed))
    for report in run:
        if report.valid is not None:
            print(
                f"  step {report.step}: loss {report.loss:.4f}, validation {report.valid:.4f}, {report.seconds:.0f} s"
            )
    started = time.perf_counter()
    model = run.finish()
    return model, run.seconds + time.perf_counter() - started


def validation(app: Recommender, users: list[History], seed: int) -> dict[str, Any]:
    model, seconds = train(app, users, seed)
    scores = model.evaluate([dataclasses.replace(one.until(len(one) - 1), held=1) for one in users])
    return {"scores": scores, "share": model.codec.share, "train_seconds": seconds}


def test(users: list[History], seed: int) -> dict[str, Any]:
    model, seconds = train(APP, users, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        size = path.stat().st_size
    return {
        "scores": model.evaluate([dataclasses.replace(one, held=1) for one in users]),
        "share": model.codec.share,
        "temperature": model.codec.temperature,
        "train_seconds": seconds,
        "weights": sum(p.numel() for p in model.net.parameters()),
        "model_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    users = load(given.data)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if given.choose:
        for name, changed in {"chosen": {}, **OTHERS}.items():
            results.setdefault("validation", {})[name] = validation(
                dataclasses.replace(APP, **changed), users, given.seed
            )
            print(name, json.dumps(results["validation"][name], indent=1), flush=True)
    else:
        results["test"] = test(users, given.seed)
        print(json.dumps(results["test"], indent=1))
        results |= {"published": PUBLISHED, "seed": given.seed, "command": "benchmarks/apps_recommend.py DATA"}
        results |= {"settings": dataclasses.asdict(APP), "recipe": dataclasses.asdict(RECIPE)}
        cpu = platform.processor() or platform.machine()
        results["machine"] = {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
