"""A million items: training with shared negatives, and how fast and how rightly the best ten are found.

    python benchmarks/recommend_million.py [--items 1000000] [--users 100000] [--steps 150] [--questions 100] [--seed 0]

Writes results/recommend_million.json. Nothing is downloaded: items lie in aisles of 50, in an order; a user visits
three aisles, the first ones far more than the last, and goes on in each by one or two places; now and then anything is
taken. Further users walk along all aisles once, so that every item is met. The last item of some users is asked about;
how well that goes says nothing about real shops.

One thread. A question is timed alone, from the network's vector to ten items and scores, without the reasons: median
by the clock (ms) and of the processor's work (work_ms). All other seconds are the processor's. Recall is that of the
approximate ten against the exact ones. Memory is the process' peak after each part.
"""

import argparse
import dataclasses
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.apps.recommend import Recommender
from holdfast.parts.events.answering import Answering
from holdfast.parts.events.history import History, split_last
from holdfast.parts.events.next_item import NextItem
from holdfast.parts.events.retrieval import index_of
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run

RESULTS = Path(__file__).parent / "results" / "recommend_million.json"
AISLE = 50  # items
EVENTS = 20  # of a user
APP = Recommender(width=64, hidden=64, dropout=0.2, negatives=512)
RECIPE = Recipe(steps=150, batch=512, learning_rate=3e-3, validate_every=150)
HELD = 150  # users whose last event but one is validation


def made_up(items: int, users: int, dice: np.random.Generator) -> list[History]:
    """Users in their aisles, then those who walk along all of them."""
    aisles = items // AISLE
    popular = np.minimum(aisles * dice.random((users, 3)) ** 3, aisles - 1).astype(np.int64)  # each user's three
    place = dice.integers(AISLE, size=(users, 3))
    rows = np.arange(users)
    found = np.empty((users, EVENTS), dtype=np.int64)
    which = dice.integers(3, size=users)
    for n in range(EVENTS):
        which = np.where(dice.random(users) < 0.2, dice.integers(3, size=users), which)
        place[rows, which] = (place[rows, which] + dice.integers(1, 3, size=users)) % AISLE
        anything = dice.random(users) < 0.05
        own = popular[rows, which] * AISLE + place[rows, which]
        found[:, n] = np.where(anything, dice.integers(items, size=users), own)
    walks = (np.arange(0, items, EVENTS - 2)[:, None] + np.arange(EVENTS)) % items  # their last two are not learned
    names = [f"item {n}" for n in range(items)]
    rows = [*found.tolist(), *walks.tolist()]
    return [History(f"user {n}", tuple(names[item] for item in row)) for n, row in enumerate(rows)]


def peak() -> float:
    """The most memory that this process has had, GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def train(histories: list[History], recipe: Recipe) -> tuple[Model[Any, Any, Any, Any, Any, Any], dict[str, Any]]:
    """A model, and what it cost. The last event is not looked at; the one before it is validation for some users."""
    before = [one.until(len(one) - 1) for one in histories]
    learned, held = split_last(before)
    started = time.process_time()
    run = Run(APP, learned, held[:: len(held) // HELD][:HELD], recipe)
    found: dict[str, Any] = {"prepare_seconds": time.process_time() - started, "prepare_peak_gb": peak()}
    print(found, flush=True)
    started = time.process_time()
    for report in run:
        if report.step % 50 == 0:
            print(f"step {report.step}: {report.loss:.3f}, {report.valid}, {report.seconds:.0f} s", flush=True)
    found |= {"train_seconds": time.process_time() - started, "train_peak_gb": peak()}
    started = time.process_time()
    model = run.finish()
    found["calibrate_seconds"] = time.process_time() - started
    found |= {"items": len(model.codec.items), "rules": len(model.codec.rules.items), "weight": model.codec.weight}
    found["weights"] = sum(p.numel() for p in model.net.parameters())
    return model, found


def timed(answering: Answering, pasts: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, float]]:
    """The ten items of each past and their scores, and the milliseconds of one question."""
    vectors = [answering.last_vectors([past]) for past in pasts]
    items: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    spent: list[float] = []
    busy: list[float] = []
    for vector, past in zip(vectors, pasts, strict=True):
        started, working = time.perf_counter(), time.process_time()
        ((numbers, values),) = answering.picked(vector, [past], [past], 10)
        busy.append(1e3 * (time.process_time() - working))
        spent.append(1e3 * (time.perf_counter() - started))
        items.append(numbers)
        scores.append(values)
    clocks = {
        "ms": float(np.median(spent)),
        "p90_ms": float(np.quantile(spent, 0.9)),
        "work_ms": float(np.median(busy)),
    }
    return items, scores, clocks


def retrieve(model: Model[Any, Any, Any, Any, Any, Any], histories: list[History]) -> dict[str, Any]:
    """Exact and approximate: time, and how much of the exact answer the approximate one holds."""
    assert isinstance(model.net, NextItem)
    started = time.process_time()
    index = index_of(model.net)
    found: dict[str, Any] = {"index_seconds": time.process_time() - started, "index_peak_gb": peak()}
    print(found, flush=True)
    found["index_bytes"] = int(index.graph.memory_usage)
    pasts = [model.codec.numbered(one.items[:-1]) for one in histories]
    exact = Answering(model.net, model.codec, False)
    items, scores, found["exact"] = timed(exact, pasts)
    near, near_scores, found["approximate"] = timed(dataclasses.replace(exact, index=index), pasts)
    shared = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(items, near, strict=True)]
    found["recall"] = float(np.mean(shared))
    found["recall_network_alone"] = network_recall(model.net, index, exact, pasts)
    first = [abs(b[0] / a[0] - 1) for a, b in zip(scores, near_scores, strict=True)]
    found["error_of_best_score"] = {"median": float(np.median(first)), "p90": float(np.quantile(first, 0.9))}
    return found


def network_recall(net: NextItem, index: Any, exact: Answering, pasts: list[np.ndarray]) -> float:
    """How many of the ten largest logits the index gives when asked for as many as retrieval asks for."""
    shared: list[float] = []
    for past in pasts:
        vector = exact.last_vectors([past])
        best = torch.topk(net.logits(vector)[0], 10).indices.tolist()
        shared.append(len(set(best) & set(index.search(vector[0].numpy(), 74 + len(past)).tolist())) / 10)
    return float(np.mean(shared))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    histories = made_up(given.items, given.users, np.random.default_rng(given.seed))
    recipe = dataclasses.replace(RECIPE, steps=given.steps, seed=given.seed)
    model, training = train(histories, recipe)
    print(json.dumps(training, indent=1), flush=True)
    asked = histories[: given.users : given.users // given.questions][: given.questions]  # no walkers
    with torch.inference_mode():
        retrieval = retrieve(model, asked)
    print(json.dumps(retrieval, indent=1), flush=True)
    results = {
        "training": training,
        "retrieval": retrieval,
        "scores": model.evaluate([dataclasses.replace(one, held=1) for one in asked]),
        "events": sum(len(one) for one in histories),
        "given": vars(given),
        "settings": dataclasses.asdict(APP),
        "recipe": dataclasses.asdict(recipe),
        "seconds": time.process_time(),
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__},
    }
    print(json.dumps(results["scores"], indent=1))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
