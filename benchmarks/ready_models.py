"""Train the ready models from data whose licences allow it: `make models DATA=...`.

    python benchmarks/ready_models.py DATA [--only translate ...] [--minutes 60] [--to models]

DATA is the folder with tinyshakespeare, tatoeba_en_de, sgd_dialogues, banking77 and clinc150. Each model has the
settings and the recipe of its benchmark and goes on from the benchmark's checkpoint where there is one. Its card names
data, licence and attribution; what it says must go wherever the model goes. Multi30k, Amazon and MovieLens are for
research: nothing here is trained on them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import apps_chat
import apps_language
import apps_translate
from holdfast.training.model import Model
from holdfast.training.run import Run
from resumable import train

RESULTS = Path(__file__).parent / "results"
AnyModel = Model[Any, Any, Any, Any, Any, Any]


class Ready(NamedTuple):
    """A model to be made."""

    begin: Callable[[Path], Run]
    saved: str  # the benchmark's checkpoint
    data: str
    licence: str


def language(data: Path) -> Run:
    learned, valid, _ = apps_language.parts(data, "shakespeare", choose=False)
    return Run(apps_language.APPS["shakespeare"], learned, valid, apps_language.RECIPES["shakespeare"])


def translate(data: Path) -> Run:
    task = apps_translate.TASKS["tatoeba-de"]
    return apps_translate.begun(task, task.app, task.recipe, data)


def chat(name: str) -> Callable[[Path], Run]:
    def begin(data: Path) -> Run:
        task = apps_chat.TASKS[name]
        parts = task.load(data)
        return Run(task.app, parts.train, parts.valid, task.recipe)

    return begin


READY = {
    "language-shakespeare": Ready(language, "apps_language_shakespeare.run", "tiny-shakespeare", "public domain"),
    "translate-en-de": Ready(
        translate,
        "apps_translate_tatoeba-de_0.run",
        "Tatoeba, English and German, as selected by www.manythings.org/anki",
        "CC BY 2.0 France: name tatoeba.org",
    ),
    "chat-services": Ready(
        chat("sgd"),
        "apps_chat_sgd_0.run",
        "Schema-Guided Dialogue (Rastogi et al., AAAI 2020), a part",
        "CC BY-SA 4.0: name the authors and Google Research; what is made of it is shared alike",
    ),
    "chat-banking": Ready(
        chat("banking77"), "apps_chat_banking77_0.run", "BANKING77 (Casanueva et al., 2020)", "CC BY 4.0: name PolyAI"
    ),
    "chat-assistant": Ready(
        chat("clinc150"), "apps_chat_clinc150_0.run", "CLINC150 (Larson et al., 2019)", "CC BY 3.0: name the authors"
    ),
}


def made(ready: Ready, data: Path, minutes: float) -> AnyModel | None:
    """The model, or None where the minutes were too few; then its checkpoint holds what there is."""
    run = ready.begin(data)
    if not train(run, RESULTS / ready.saved, minutes):
        return None
    model = run.finish()
    model.card["data"], model.card["licence of the data"] = ready.data, ready.licence
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=list(READY), action="append")
    parser.add_argument("--minutes", type=float, default=1e9, help="for each model")
    parser.add_argument("--to", type=Path, default=Path("models"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.to.mkdir(exist_ok=True)
    for name in given.only or READY:
        print(name, flush=True)
        model = made(READY[name], given.data, given.minutes)
        if model is None:
            print("  not finished: the same command goes on")
            continue
        path = given.to / f"{name}.safetensors"
        model.save(path)
        print(f"  {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
