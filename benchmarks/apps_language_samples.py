"""Are sampled sentences grammatical? Written by a language model of everyday English, judged by text it never saw.

    python benchmarks/apps_language_samples.py DATA [--steps 6000] [--sentences 1000] [--seed 0] [--threads 1]

DATA is the folder with tatoeba_en_de. The English sentences are cut in three: a part to learn from, a part that judges,
and a tenth of both, real sentences that are judged too. Written are sentences of a subword network, and of bigrams of
words, the baseline, learned from the same part. Judged are those alone that the learned part does not hold:

new          share of sentences that the learned part does not hold
trigrams     share of their word trigrams, borders among them, that the judging part holds
whole        share of the sentences all of whose trigrams it holds
distinct_2   different pairs of words per pair

Real sentences say what could be reached. results/apps_language_samples.json keeps thirty sentences to be read, the
first that came.
"""

import argparse
import dataclasses
import itertools
import json
import lzma
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.apps.language import LanguageModel
from holdfast.parts.text.corpus import Text
from holdfast.training.application import Recipe
from holdfast.training.run import Run

RESULTS = Path(__file__).parent / "results" / "apps_language_samples.json"
APP = LanguageModel(
    vocabulary=4000, width=384, hidden=384, layers=2, back=64, dropout=0.3, dropout_words=0.05, weight_drop=0.2
)
RECIPE = Recipe(
    steps=6000,
    batch=48,
    learning_rate=3e-3,
    weight_decay=0.05,
    clip=0.5,
    average=0.998,
    validate_every=500,
    precision="medium",
)
SAMPLING = {"temperature": 0.9, "top_p": 0.9}
WORD = re.compile(r"[\w'’]+|[^\w\s]")
Words = tuple[str, ...]


def sentences(folder: Path) -> list[str]:
    """All different English sentences, in an order that says nothing."""
    found: dict[str, None] = {}
    for name in ("train.tsv.xz", "valid.tsv.xz"):
        with lzma.open(folder / "tatoeba_en_de" / name, "rt", encoding="utf-8", newline="\n") as file:
            names, *rows = (line.rstrip("\n").split("\t") for line in file)
        found |= dict.fromkeys(row[names.index("en")] for row in rows)
    every = list(found)
    return [every[n] for n in np.random.default_rng(0).permutation(len(every))]


def words(sentence: str) -> Words:
    return ("<", *WORD.findall(sentence.lower()), ">")


def runs(sentence: Words, size: int) -> list[Words]:
    return [sentence[n : n + size] for n in range(len(sentence) - size + 1)]


def bigram_sentences(learned: Sequence[Words], count: int, dice: np.random.Generator) -> list[Words]:
    """Each word drawn by how often it followed the one before."""
    follow: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sentence in learned:
        for before, after in itertools.pairwise(sentence):
            follow[before][after] += 1
    tables = {before: (list(after), np.cumsum(list(after.values()))) for before, after in follow.items()}
    found: list[Words] = []
    while len(found) < count:
        sentence = ["<"]
        while sentence[-1] != ">" and len(sentence) < 60:
            names, until = tables[sentence[-1]]
            sentence.append(names[int(np.searchsorted(until, dice.random() * until[-1], side="right"))])
        found.append(tuple(sentence))
    return found


def judged(written: Sequence[Words], learned: set[Words], known: set[Words]) -> dict[str, float]:
    """The four measures."""
    new = [one for one in written if one not in learned and len(one) > 2]
    found = [[run in known for run in runs(one, 3)] for one in new]
    pairs = [pair for one in new for pair in runs(one, 2)]
    return {
        "new": len(new) / max(1, len(written)),
        "trigrams": float(np.mean([hit for one in found for hit in one])),
        "whole": float(np.mean([all(one) for one in found])),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "words": float(np.mean([len(one) - 2 for one in new])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    every = sentences(given.data)
    real, rest = every[: len(every) // 10], every[len(every) // 10 :]
    learned, judging = rest[::2], rest[1::2]
    texts = [Text(name, "\n".join(part) + "\n") for name, part in (("learned", learned), ("real", real))]
    run = Run(APP, texts[:1], texts[1:], dataclasses.replace(RECIPE, steps=given.steps, seed=given.seed))
    for report in run:
        if report.valid is not None:
            print(
                f"step {report.step}: {report.loss:.4f}, validation {report.valid:.4f}, {report.seconds:.0f} s",
                flush=True,
            )
    model = run.finish()
    asked = model.using(length=16 * given.sentences, sampling_seed=given.seed, **SAMPLING)
    lines: list[str] = asked.predict([Text("", "\n")])[0].text.split("\n")[: given.sentences]
    known = {trigram for one in judging for trigram in runs(words(one), 3)}
    met = {words(one) for one in learned}
    dice = np.random.default_rng(given.seed)
    bigrams = bigram_sentences([words(one) for one in learned], given.sentences, dice)
    scores = {
        "holdfast": judged([words(line) for line in lines], met, known),
        "bigrams": judged(bigrams, met, known),
        "real sentences": judged([words(one) for one in real], met, known),
    }
    result: dict[str, Any] = {
        "scores": scores,
        "perplexity": model.evaluate(texts[1:]),
        "read": [line for line in lines if words(line) not in met][:30],
        "bigrams_read": [" ".join(one[1:-1]) for one in bigrams[:5]],
        "train_seconds": run.seconds,
        "weights": sum(p.numel() for p in model.net.parameters()),
        "settings": dataclasses.asdict(APP),
        "recipe": dataclasses.asdict(run.recipe),
        "sampling": SAMPLING,
        "seed": given.seed,
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": given.threads},
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
