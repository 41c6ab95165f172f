"""Translation: Multi30k en-de and en-fr (test 2016), Tatoeba en-de (own split), and sentences per second.

    python benchmarks/apps_translate.py DATA [--task multi30k-de ...] [--minutes 60] [--seed 0] [--members 2] [--choose]
    python benchmarks/apps_translate.py DATA --measure 50

DATA is the folder with multi30k and tatoeba_en_de. Each task is trained with the recipe, going on from its checkpoint
results/apps_translate_TASK_SEED.run until its minutes are over; when it is finished it is scored on test, once:
results/apps_translate.json.
--members trains so many networks, one after another with the seeds from --seed on, each from its own checkpoint, and
scores them together as one (the setting "members" trains them side by side). --no-test trains only: the command without
it scores later.
--choose trains with other settings and scores validation only. --measure trains so many steps and says how fast.

Multi30k: the official lower-cased, tokenised columns; BLEU on these tokens ("--tokenize none"), as published figures
have it. The data are for research: nothing trained on them is part of a release. Tatoeba (CC BY 2.0): cased text,
sacreBLEU 13a, all translations of a sentence as its references.
"""

import argparse
import dataclasses
import json
import lzma
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast.apps.translate import Bilingual, Translator
from holdfast.parts.text.pairs import Pair
from holdfast.parts.text.translation_ensemble import TranslationEnsemble
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run
from resumable import train

RESULTS = Path(__file__).parent / "results" / "apps_translate.json"
AnyModel = Model[Any, Any, Any, Any, Any, Any]


class Task(NamedTuple):
    """One language pair of one data set."""

    folder: str
    parts: tuple[str, str, str]  # files of train, validation, test
    columns: tuple[str, str]
    app: Translator
    recipe: Recipe
    published: dict[str, dict[str, float]]  # BLEU on the same test part


MULTI30K = ("train.tsv.xz", "val.tsv.xz", "test_2016_flickr.tsv.xz")
# Embeddings and encoder as wide as LIUM-CVC's (128, and 256 for each direction).
CAPTIONS = Translator(bleu_tokens="none", width=128, hidden=512, dropout=0.3)
CAPTIONS_RECIPE = dataclasses.replace(Translator.recipe, steps=14000, learning_rate=2.5e-3, validate_every=400)
GERMAN = dataclasses.replace(CAPTIONS, beam=10, length_penalty=1.4)  # as validation prefers it
FRENCH = dataclasses.replace(CAPTIONS, beam=8, length_penalty=1.0)
EVERYDAY = Translator(vocabulary=12000, dropout=0.25, copy=True)
TASKS = {
    # arXiv:1707.04481 (LIUM-CVC, text only, mean of runs); github.com/LividWo/Revisit-MMT (Transformer-tiny).
    "multi30k-de": Task(
        "multi30k",
        MULTI30K,
        ("en_tok", "de_tok"),
        GERMAN,
        CAPTIONS_RECIPE,
        {"attention GRU (LIUM-CVC)": {"BLEU": 38.1}, "Transformer-tiny": {"BLEU": 41.02}},
    ),
    "multi30k-fr": Task(
        "multi30k",
        MULTI30K,
        ("en_tok", "fr_tok"),
        FRENCH,
        CAPTIONS_RECIPE,
        {"attention GRU (LIUM-CVC)": {"BLEU": 52.5}, "Transformer-tiny": {"BLEU": 61.8}},
    ),
    "tatoeba-de": Task(
        "tatoeba_en_de",
        ("train.tsv.xz", "valid.tsv.xz", "test.tsv.xz"),
        ("en", "de"),
        EVERYDAY,
        dataclasses.replace(Translator.recipe, steps=11000, batch=160, validate_every=1000),
        {},
    ),
}
OTHERS: dict[str, dict[str, Any]] = {
    "without input feeding": {"input_feeding": False},
    "two layers": {"encoder_layers": 2, "decoder_layers": 2},
    "without BPE-dropout": {"bpe_dropout": 0.0},
    "dropout 0.3": {"dropout": 0.3},
    "weight drop 0.2": {"weight_drop": 0.2},
    "no words dropped": {"dropout_words": 0.0},
}


def load(folder: Path, columns: tuple[str, str]) -> list[Pair]:
    """The two columns of one part."""
    with lzma.open(folder, "rt", encoding="utf-8", newline="\n") as file:
        names, *rows = (line.rstrip("\n").split("\t") for line in file)
    places = [names.index(name) for name in columns]
    return [Pair(*(row[place] for place in places)) for row in rows]


def begun(task: Task, app: Translator, recipe: Recipe, data: Path) -> Run:
    train, valid = (load(data / task.folder / part, task.columns) for part in task.parts[:2])
    return Run(app, train, valid, recipe)


def speed(model: AnyModel, pairs: list[Pair]) -> dict[str, float]:
    """Sentences per second on one thread, reading and writing, for each precision and beam; one by one at last."""
    threads, asked, found = torch.get_num_threads(), [Pair(pair.source) for pair in pairs], dict[str, float]()
    torch.set_num_threads(1)
    for precision in ("highest", "medium", "int8"):
        for beam in (5, 1):
            used = model.using(decoder_precision=precision, beam=beam)
            used.predict(asked[:32])
            started = time.perf_counter()
            used.predict(asked)
            found[f"{precision}, beam {beam}"] = len(asked) / (time.perf_counter() - started)
    stream = model.using(decoder_precision="int8").stream()
    stream.push([asked[0].source])
    started = time.perf_counter()
    for one in asked[:100]:
        stream.push([one.source])
    found["int8, beam 5, one by one"] = 100 / (time.perf_counter() - started)
    torch.set_num_threads(threads)
    return found


def together(task: Task, runs: list[Run]) -> AnyModel:
    """The models of finished runs as one."""
    models = [run.finish() for run in runs]
    first = models[0]
    if len(models) == 1:
        return first
    assert all(codec_of(one) == codec_of(first) for one in models)  # learned from the same pairs, without dice
    app = dataclasses.replace(task.app, members=len(models))
    net = app.network(first.codec)
    assert isinstance(net, TranslationEnsemble)
    for member, model in zip(net.every, models, strict=True):
        member.load_state_dict(model.net.state_dict())
    return Model(app, first.codec, net, first.card)


def codec_of(model: AnyModel) -> list[str]:
    """What tokens stand for."""
    codec = model.codec
    assert isinstance(codec, Bilingual)
    return codec.vocabulary.spelled(np.arange(len(codec.vocabulary)))


def scored(task: Task, runs: list[Run], data: Path) -> dict[str, Any]:
    """The test part, read once."""
    model, run = together(task, runs), runs[0]
    test = load(data / task.folder / task.parts[2], task.columns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        size = path.stat().st_size
    return {
        "scores": model.evaluate(test),
        "published": task.published,
        "validation": model.evaluate(load(data / task.folder / task.parts[1], task.columns))["holdfast"],
        "steps": run.step,
        "best_step": [one.best_step for one in runs],
        "train_seconds": sum(one.seconds for one in runs),
        "sentences_per_second": speed(model, test[:300]),
        "weights": sum(p.numel() for p in model.net.parameters()),
        "model_bytes": size,
        "settings": dataclasses.asdict(model.application),
        "recipe": dataclasses.asdict(run.recipe),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def measure(task: Task, recipe: Recipe, data: Path, steps: int) -> None:
    """How fast training is, with and without input feeding, and how long the recipe takes."""
    for feeding in (True, False):
        run = begun(task, dataclasses.replace(task.app, input_feeding=feeding), recipe, data)
        run.advance()
        begin, losses, counted = run.seconds, list[float](), 0
        batches = run.application.batches
        for _ in range(steps):
            losses.append(run.advance().loss)
        spent = run.seconds - begin
        items = list(batches(run.codec, run.encoded, recipe.batch, None))
        counted = sum(int((batch.targets >= 0).sum()) for batch in items) / len(items)
        print(
            f"input feeding {feeding}: {steps} steps in {spent:.1f} s, {counted * steps / spent:.0f} target tokens/s, "
            f"recipe {recipe.steps * spent / steps / 60:.0f} minutes; loss {losses[0]:.3f} -> "
            f"{sum(losses[-10:]) / len(losses[-10:]):.3f}",
            flush=True,
        )


def finished(name: str, recipe: Recipe, given: argparse.Namespace) -> list[Run]:
    """The runs of all members, trained to the end; none where time was up before."""
    task, runs = TASKS[name], list[Run]()
    for seed in range(given.seed, given.seed + given.members):
        saved = RESULTS.with_name(f"apps_translate_{name}_{seed}.run")
        run = begun(task, task.app, dataclasses.replace(recipe, seed=seed), given.data)
        if not train(run, saved, given.minutes):
            print(f"  not finished: {saved} holds step {run.step} of {recipe.steps}; the same command goes on")
            return []
        runs.append(run)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--minutes", type=float, default=1e9, help="for each task; what is trained by then is kept")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--no-test", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--measure", type=int, metavar="STEPS")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in given.task or TASKS:
        task = TASKS[name]
        recipe = dataclasses.replace(task.recipe, seed=given.seed, steps=given.steps or task.recipe.steps)
        print(name, flush=True)
        if given.measure:
            measure(task, recipe, given.data, given.measure)
            continue
        if given.choose:
            for what, changed in {"chosen": {}, **OTHERS}.items():
                run = begun(task, dataclasses.replace(task.app, **changed), recipe, given.data)
                train(run, None, given.minutes)
                found = {"scores": run.finish().evaluate(run.valid), "steps": run.step, "train_seconds": run.seconds}
                results.setdefault("validation", {}).setdefault(name, {})[what] = found
                print(what, json.dumps(found), flush=True)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            continue
        runs = finished(name, recipe, given)
        if not runs or given.no_test:
            continue
        command = f"benchmarks/apps_translate.py DATA --task {name} --steps {recipe.steps} --members {given.members}"
        found = {**scored(task, runs, given.data), "seed": given.seed, "command": command}
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}  # another task may have ended since
        title = name if given.members == 1 else f"{name}, {given.members} members"
        results.setdefault("test", {})[title] = found
        print(json.dumps(found, indent=1), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
