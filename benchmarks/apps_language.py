"""Language modelling: tiny-shakespeare by characters, WikiText-2 by words.

    python benchmarks/apps_language.py DATA shakespeare|wikitext2 [--seed 0] [--choose] [--threads 2]

DATA holds the folders tinyshakespeare and wikitext2. Writes results/apps_language.json.

shakespeare: the first 90 % are learned from and the last 10 % judged, as nanoGPT has it. With --choose the last tenth
of the learning part is held out and the judged part is not touched; without it the settings are fixed, nothing is held
out, and the weights after the last step are judged once. wikitext2: the official parts; the best weights by the
validation part are judged, alone and with the cache that suits the beginning of that part best.

Training may be interrupted at any time and goes on from its checkpoint in results/apps_language_TASK.run. Products have
bf16 factors where the CPU multiplies them.
"""

import argparse
import dataclasses
import json
import lzma
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.apps.language import LanguageModel
from holdfast.engine import native
from holdfast.parts.text.corpus import Text
from holdfast.parts.text.surprise import Cache, compare_caches
from holdfast.parts.text.tokens import encoded
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run
from resumable import train

AnyModel = Model[Any, Any, Any, Any, Any, Any]
RESULTS = Path(__file__).parent / "results" / "apps_language.json"
# nanoGPT: its README, 10.7 M weights, three minutes on an A100, and its setting for a CPU. minLSTM, minGRU: Feng et
# al., "Were RNNs All We Needed?", 2024. LSTM 2x200, 2x650: gluon-nlp's model zoo, 750 epochs on a GPU. AWD-LSTM: Merity
# et al., ICLR 2018. With a cache: the same models under Grave et al.'s continuous cache.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "shakespeare": {
        "nanoGPT, 10.7 M weights, on an A100": {"nats": 1.4697},
        "nanoGPT, its setting for a CPU": {"nats": 1.88},
        "minLSTM": {"nats": 1.555},
        "minGRU": {"nats": 1.548},
    },
    "wikitext2": {
        "LSTM 2x200, tied": {"perplexity": 102.49, "with cache": 77.83},
        "LSTM 2x650, tied": {"perplexity": 85.82, "with cache": 66.39},
        "AWD-LSTM, 33 M weights": {"perplexity": 65.8, "with cache": 52.0},
    },
}
APPS = {
    "shakespeare": LanguageModel(
        unit="characters", width=512, hidden=512, layers=2, back=128, dropout=0.4, dropout_words=0.0, weight_drop=0.3
    ),
    "wikitext2": LanguageModel(
        unit="words",
        vocabulary=50_000,
        width=512,
        hidden=512,
        layers=2,
        back=70,
        dropout=0.5,
        dropout_words=0.1,
        weight_drop=0.4,
        negatives=2048,
    ),
}
RECIPES = {
    "shakespeare": Recipe(
        steps=1500,
        batch=64,
        learning_rate=4e-3,
        weight_decay=0.5,
        clip=0.5,
        average=0.998,
        validate_every=1500,
        precision="medium",
    ),
    "wikitext2": Recipe(
        steps=18_500,
        batch=64,
        learning_rate=3.5e-3,
        warmup=0.05,
        weight_decay=0.3,
        clip=0.25,
        average=0.997,
        validate_every=2000,
        precision="medium",
    ),
}
CACHED = ("wikitext2",)  # what has a cache's score, too
CACHES = [
    Cache(size, share, flatness)
    for size in (2000, 4000)
    for share in (0.15, 0.2, 0.25, 0.3)
    for flatness in (0.1, 0.2, 0.3)
]
LOOKED_AT = 60_000  # tokens of validation by which a cache is chosen


def parts(folder: Path, task: str, choose: bool) -> tuple[list[Text], list[Text], list[Text]]:
    """(learned from, validation, judged)."""
    if task == "wikitext2":
        files = [folder / task / f"wiki.{part}.tokens.xz" for part in ("train", "valid", "test")]
        train, valid, test = ([Text(file.name, unpacked(file))] for file in files)
        return train, valid, test
    text = unpacked(folder / "tinyshakespeare" / "input.txt.xz")
    border = int(0.9 * len(text))
    learned, judged = Text("first 90 %", text[:border]), Text("last 10 %", text[border:])
    if not choose:
        return [learned], [], [judged]
    inner, held = learned.cut(0.9)
    return [inner], [held], [held]


def unpacked(path: Path) -> str:
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        return file.read()


def cached(model: AnyModel, valid: list[Text]) -> AnyModel:
    """The model with the cache under which validation's first tokens are the least surprising."""
    vocabulary = model.codec.vocabulary
    tokens = np.concatenate([part for text in valid for part in encoded(vocabulary, text.pieces())])[:LOOKED_AT]
    nats = compare_caches(model.net, vocabulary.start, tokens, CACHES)
    best = CACHES[int(nats.argmin())]
    print(f"validation, {len(tokens)} tokens: perplexity {math.exp(nats.min()):.2f} with {best}", flush=True)
    return model.using(cache=best.size, cache_share=best.share, cache_flatness=best.flatness)


def judged(model: AnyModel, task: str, valid: list[Text], test: list[Text]) -> dict[str, Any]:
    """Everybody's scores, the cache's beside; and how it was made."""
    found: dict[str, Any] = {"scores": model.evaluate(test), "settings": dataclasses.asdict(model.application)}
    if task in CACHED:
        model = cached(model, valid)
        found["scores"]["holdfast with a cache"] = model.evaluate(test)["holdfast"]
        found["cache"] = {
            name: value for name, value in dataclasses.asdict(model.application).items() if name.startswith("cache")
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("task", choices=list(APPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task, app = given.task, APPS[given.task]
    learned, valid, test = parts(given.data, task, given.choose)
    recipe = dataclasses.replace(RECIPES[task], seed=given.seed)
    run = Run(app, learned, valid, recipe)
    saved = RESULTS.parent / f"apps_language_{task}{'_choose' if given.choose else ''}.run"
    train(run, saved)
    model, started = run.finish(), time.perf_counter()
    name = f"{task}, chosen by" if given.choose else task
    found = judged(model, task, valid, test)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[name] = {
        **found,
        "published": PUBLISHED[task],
        "train_seconds": run.seconds,
        "judging_seconds": time.perf_counter() - started,
        "weights": sum(p.numel() for p in model.net.parameters()),
        "steps": run.step,
        "best_step": run.best_step,
        "recipe": dataclasses.asdict(recipe),
        "command": f"benchmarks/apps_language.py DATA {task}{' --choose' if given.choose else ''}",
        "seed": given.seed,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "threads": given.threads,
            "torch": torch.__version__,
            "instruction_set": native.isa(),
        },
    }
    print(json.dumps(results[name]["scores"], indent=1))
    assert all(math.isfinite(value) for row in results[name]["scores"].values() for value in row.values())
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    model.save(RESULTS.parent / f"apps_language_{task}.safetensors")


if __name__ == "__main__":
    main()
