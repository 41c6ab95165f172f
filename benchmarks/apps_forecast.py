"""Forecasts on M4 Hourly and Weekly, M3 Monthly and ETTh1 by the official rules, beside baselines and published ones.

    python benchmarks/apps_forecast.py DATA [--only m4-hourly ...] [--seed 0] [--choose]

DATA is the folder of data packages. Writes results/apps_forecast.json. With --choose nothing of the test part is
scored: the last horizon of each training series is (ETTh1: the validation rows), by which settings were chosen.
"""

import argparse
import csv
import dataclasses
import json
import lzma
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.apps.forecast import HALF, Forecaster
from holdfast.parts.series import accuracy
from holdfast.parts.series.frequency import Frequency
from holdfast.parts.series.series import Series
from holdfast.training.application import Recipe
from holdfast.training.model import Model

RESULTS = Path(__file__).parent / "results" / "apps_forecast.json"
STEPS, MONTHS = Frequency("step", 1), Frequency("month", 1)
# M4: the organisers' table (github.com/Mcompetitions/M4-methods). ETTh1-96: README of github.com/lss-1138/SegRNN and
# github.com/cure-lab/LTSF-Linear. M3 theta: Makridakis & Hibon, IJF 16 (2000), from memory, not read again here.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "m4-hourly": {
        "ES-RNN (winner of M4)": {"sMAPE": 9.328, "MASE": 0.893, "OWA": 0.440},
        "best of any entry on Hourly": {"sMAPE": 8.913, "MASE": 0.801, "OWA": 0.410},
        "the organisers' recurrent network": {"sMAPE": 14.698, "MASE": 3.048, "OWA": 1.036},
    },
    "m4-weekly": {
        "ES-RNN (winner of M4)": {"sMAPE": 7.817, "MASE": 2.356, "OWA": 0.851},
        "best of any entry on Weekly": {"sMAPE": 6.582, "MASE": 2.107, "OWA": 0.739},
        "the organisers' recurrent network": {"sMAPE": 15.220, "MASE": 5.132, "OWA": 1.755},
    },
    "m3-monthly": {"theta (winner of M3; from memory, not re-read)": {"sMAPE": 13.85}},
    "etth1-96": {
        "SegRNN, context 720": {"MSE": 0.351, "MAE": 0.392},
        "PatchTST, context 720": {"MSE": 0.375},
        "linear": {"MSE": 0.375, "MAE": 0.397},
        "recurrent network (GRU)": {"MSE": 1.135, "MAE": 0.844},
    },
}
Settings = tuple[Forecaster, Recipe]
BASE = Forecaster.recipe
SHORT = dataclasses.replace(BASE, steps=800)
LONGER = dataclasses.replace(BASE, steps=1600)
WIDER = dataclasses.replace(BASE, steps=800, batch=128)
RECIPES: dict[str, Settings] = {
    "m4-hourly": (Forecaster(horizon=48, season=24), LONGER),
    "m4-weekly": (Forecaster(horizon=13, season=1, seasons=(52,), context=208), LONGER),
    "m3-monthly": (Forecaster(horizon=18, season=12), SHORT),
    "etth1-96": (
        Forecaster(
            horizon=96, season=24, context=720, segment=48, hidden=192, dropout=0.5, error="series", blend=False
        ),
        WIDER,
    ),
}


def rows_of(path: Path, *, header: bool) -> dict[str, np.ndarray]:
    """Name -> values of a file with one series per row."""
    with lzma.open(path, "rt") as file:
        lines = list(csv.reader(file))[int(header) :]
    return {line[0]: np.array([float(cell) for cell in line[1:] if cell]) for line in lines}


def competition(data: Path, folder: str, name: str, frequency: Frequency) -> tuple[list[Series], list[Series]]:
    """The training series, and the same with the test part behind them."""
    header = folder.startswith("m4")
    train = rows_of(data / folder / f"{name}-train.csv.xz", header=header)
    test = rows_of(data / folder / f"{name}-test.csv.xz", header=header)
    known = [Series(key, 0, frequency, values) for key, values in train.items()]
    return known, [dataclasses.replace(one, values=np.append(one.values, test[one.id])) for one in known]


def run_competition(train: list[Series], full: list[Series], settings: Settings, choose: bool) -> dict[str, Any]:
    """Fit on the training series, score the last horizon of the full ones."""
    application, recipe = settings
    if choose:
        train, full = [one.until(len(one.values) - (application.horizon or 0)) for one in train], train
    model, seconds = timed_fit(application, train, None, recipe)
    with torch.inference_mode():
        started = time.perf_counter()
        model.predict(train)
        asked = time.perf_counter() - started
    facts = {"series": len(train), "network's share": model.codec.share, "predict_seconds": round(asked, 2)}
    return {"scores": model.evaluate(full), **facts, **cost(model, seconds)}


def run_ett(data: Path, settings: Settings, choose: bool) -> dict[str, Any]:
    """Rows 0-8639 train, -11519 validation, -14399 test; z-scores of the training part; stride 1."""
    application, recipe = settings
    horizon = application.horizon or 96
    series = application.read(data / "ett_h1" / "ETTh1.csv.xz")
    scaled = [
        dataclasses.replace(s, values=(s.values - s.values[:8640].mean()) / s.values[:8640].std()) for s in series
    ]
    model, seconds = timed_fit(
        application, [one.until(8640) for one in scaled], [one.until(11520).since(8640) for one in scaled], recipe
    )
    begin, end = (8640, 11520) if choose else (11520, 14400)
    origins = np.arange(begin, end - horizon + 1)
    which, origins = np.repeat(np.arange(len(scaled)), len(origins)), np.tile(origins, len(scaled))
    known = [one.until(end) for one in scaled]
    with torch.inference_mode():
        quantiles = application.quantiles_at(model.net, model.codec, known, which, origins)
    target = np.stack([known[place].values[at : at + horizon] for place, at in zip(which, origins, strict=True)])
    last_day = np.stack([known[place].values[at - 24 : at] for place, at in zip(which, origins, strict=True)])
    scores = {
        "holdfast": errors(target, quantiles[..., HALF])
        | {
            "coverage 80": accuracy.coverage(target, quantiles[..., 1], quantiles[..., -2]),
            "coverage 95": accuracy.coverage(target, quantiles[..., 0], quantiles[..., -1]),
        },
        "seasonal naive": errors(target, np.tile(last_day, (1, horizon // 24))),
    }
    return {"scores": scores, "windows": len(which), **cost(model, seconds)}


def errors(target: np.ndarray, forecast: np.ndarray) -> dict[str, float]:
    """Mean squared and mean absolute error."""
    return {"MSE": float(((forecast - target) ** 2).mean()), "MAE": float(np.abs(forecast - target).mean())}


def timed_fit(
    application: Forecaster, train: list[Series], valid: list[Series] | None, recipe: Recipe
) -> tuple[Model[Any, Any, Any, Any, Any, Any], float]:
    """A trained model and the seconds it took."""
    started = time.perf_counter()
    model = application.fit(train, valid, recipe)
    return model, time.perf_counter() - started


def cost(model: Model[Any, Any, Any, Any, Any, Any], seconds: float) -> dict[str, Any]:
    """Time, size and settings."""
    path = RESULTS.with_name("forecast.tmp.safetensors")
    model.save(path)
    size = path.stat().st_size
    path.unlink()
    return {
        "train_seconds": round(seconds, 1),
        "model_bytes": size,
        "weights": sum(p.numel() for p in model.net.parameters()),
        "settings": dataclasses.asdict(model.application),
        "card": model.card,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    m4, m3 = "m4_hourly_weekly", "m3_monthly_quarterly"
    sources: dict[str, Callable[[], tuple[list[Series], list[Series]]]] = {
        "m4-hourly": lambda: competition(given.data, m4, "Hourly", STEPS),
        "m4-weekly": lambda: competition(given.data, m4, "Weekly", STEPS),
        "m3-monthly": lambda: competition(given.data, m3, "M3-Monthly", MONTHS),
    }
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in given.only:
        application, recipe = RECIPES[name]
        settings = application, dataclasses.replace(recipe, seed=given.seed)
        if name in sources:
            found = run_competition(*sources[name](), settings, given.choose)
        else:
            found = run_ett(given.data, settings, given.choose)
        found |= {"published": PUBLISHED[name], "seed": given.seed, "machine": machine()}
        results.setdefault("chosen by" if given.choose else "test", {})[name] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(found["scores"], indent=1), f"{found['train_seconds']} s", flush=True)


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    cpu = platform.processor() or platform.machine()
    return {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
