"""Chat: intents of BANKING77 and CLINC150 with what is out of scope, slots and replies of SGD's conversations.

    python benchmarks/apps_chat.py DATA [--task banking77 ...] [--minutes 60] [--seed 0] [--choose] [--threads 1]

DATA is the folder with banking77, clinc150 and sgd_dialogues. Each task is trained with its settings, going on from its
checkpoint results/apps_chat_TASK_SEED.run until its minutes are over; when it is finished it is scored on test, once:
results/apps_chat.json. --choose scores validation instead, of SGD with several ways to decode.

BANKING77 has no validation part: settings were chosen with a part of train held out (--choose: a tenth, of every intent
as much), and what is tested was trained on all of it, for so many steps. CLINC150: the official parts. SGD: the
packaged part of train, of which 300 conversations are validation; the packaged part of dev is the test. Replies are
written with the system's acts given, and without. No published figures are of this part of SGD. TF-IDF + SVM, the
baseline of the intents, is scikit-learn's (the extra bench), trained in the same run.
"""

import argparse
import csv
import dataclasses
import io
import json
import lzma
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast.apps.chat import Chatbot
from holdfast.parts.text.chatting import Said
from holdfast.parts.text.conversation import Conversation, Slot, Turn
from holdfast.parts.text.exchanges import is_answered
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run
from resumable import train

RESULTS = Path(__file__).parent / "results" / "apps_chat.json"
SERVICES = 300  # conversations of SGD's train that are validation
AnyModel = Model[Any, Any, Any, Any, Any, Any]
Talks = list[Conversation]


class Data(NamedTuple):
    """The parts of a data set."""

    train: Talks
    valid: Talks
    test: Talks


class Task(NamedTuple):
    """A data set and how a bot is taught with it."""

    load: Callable[[Path], Data]
    app: Chatbot
    recipe: Recipe
    published: dict[str, dict[str, float]]


def messages(pairs: Sequence[tuple[str, str]]) -> Talks:
    """(text, intent) -> conversations of a message."""
    return [Conversation(str(number), (Turn("user", text, intent),)) for number, (text, intent) in enumerate(pairs)]


def banking(folder: Path) -> Data:
    def part(name: str) -> Talks:
        with lzma.open(folder / "banking77" / name, "rt", encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(io.StringIO(file.read(), newline=""))
        return messages([(text, intent) for text, intent in rows])

    return Data(part("train.csv.xz"), [], part("test.csv.xz"))


def clinc(folder: Path) -> Data:
    def part(name: str) -> Talks:
        with lzma.open(folder / "clinc150" / name, "rt", encoding="utf-8", newline="\n") as file:
            _, *rows = (line.rstrip("\n").split("\t") for line in file)
        return messages([(text, intent) for intent, text in rows])

    return Data(*(part(f"{name}.tsv.xz") for name in ("train", "val", "test")))


def services(folder: Path) -> Data:
    def part(name: str) -> Talks:
        with lzma.open(folder / "sgd_dialogues" / name, "rt", encoding="utf-8", newline="\n") as file:
            return [served(json.loads(line)) for line in file]

    train = part("train.jsonl.xz")
    held = set(np.random.default_rng(0).permutation(len(train))[:SERVICES].tolist())
    valid = [one for number, one in enumerate(train) if number in held]
    return Data([one for n, one in enumerate(train) if n not in held], valid, part("dev.jsonl.xz"))


def served(dialogue: dict[str, Any]) -> Conversation:
    """One of SGD's dialogues: the acts of the system's turn are the facts of the message that it answers."""
    turns: list[Turn] = []
    for turn in dialogue["turns"]:
        acts = turn["a"]
        if turn["s"] == "S":
            turns[-1] = dataclasses.replace(turns[-1], facts=tuple(map(fact, acts)))
            turns.append(Turn("bot", turn["t"]))
            continue
        slots = [Slot(act[1], value) for act in acts if act[0] == "INFORM" and len(act) > 2 for value in act[2]]
        intent = turn.get("i") if isinstance(turn.get("i"), str) else None  # a few have two
        turns.append(Turn("user", turn["t"], intent, tuple(slots)))
    return Conversation(dialogue["id"], tuple(turns))


def fact(act: list[Any]) -> Slot:
    """Such as ["OFFER", "city", ["San Jose"]]."""
    return Slot(" ".join(act[:2]).lower().replace("_", " "), ", ".join(act[2]) if len(act) > 2 else "")


BANKING = Chatbot(replying=False)
CLINC = Chatbot(replying=False, members=4, message_width=96, message_hidden=128, mixup=0.4)
SERVICE = Chatbot(longest=60, beam=4, message_hidden=192, message_dropout=0.2, message_words=0.05)
TASKS = {
    # github.com/Nabin15/Project (BiLSTM of words and characters, TF-IDF), arXiv:2003.04807 (BERT).
    "banking77": Task(
        banking,
        BANKING,
        dataclasses.replace(Chatbot.recipe, steps=1500),
        {
            "BiLSTM, words and characters": {"accuracy": 0.886},
            "TF-IDF + SVM": {"accuracy": 0.9029},
            "BERT large, tuned": {"accuracy": 0.9366},
        },
    ),
    # "Clinc Intent Detection" table (TextCNN, BERT tiny); Larson et al., EMNLP 2019 (out of scope).
    "clinc150": Task(
        clinc,
        CLINC,
        # One look, at the end: mixed messages make it less sure, which validation's loss would hold against it.
        dataclasses.replace(Chatbot.recipe, steps=4500, validate_every=4500),
        {"TextCNN": {"accuracy": 0.944}, "SVM": {"accuracy": 0.91}, "BERT tiny": {"accuracy": 0.945}},
    ),
    # github.com/budzianowski/multiwoz, "LABES": another data set, end to end; for orientation only.
    "sgd": Task(
        services,
        SERVICE,
        dataclasses.replace(Chatbot.recipe, steps=4500, batch=48, average=0.998, validate_every=500),
        {"LABES (GRU), on MultiWOZ": {"BLEU": 18.9}},
    ),
}


def vector_machine(train: Talks, judged: Talks) -> dict[str, float]:
    """TF-IDF of words and letters, and a linear SVM: ten lines of scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    turns = [[turn for one in part for turn in one.turns if turn.intent != "oos"] for part in (train, judged)]
    texts = [[turn.text for turn in part] for part in turns]
    truth = [[turn.intent for turn in part] for part in turns]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    machine = make_pipeline(make_union(words, letters), LinearSVC(random_state=0))
    machine.fit(texts[0], truth[0])
    return {"accuracy": float(machine.score(texts[1], truth[1]))}


def without_facts(talks: Talks) -> Talks:
    """The same, what is to be told not given."""
    return [
        dataclasses.replace(one, turns=tuple(dataclasses.replace(turn, facts=()) for turn in one.turns))
        for one in talks
    ]


def known_services(folder: Path, talks: Talks) -> Talks:
    """SGD's test conversations all of whose services are in train."""
    named: list[set[str]] = []
    for name in ("train.jsonl.xz", "dev.jsonl.xz"):
        with lzma.open(folder / "sgd_dialogues" / name, "rt", encoding="utf-8", newline="\n") as file:
            dialogues = [json.loads(line) for line in file]
        named.append({service for one in dialogues for service in one["sv"]})
        if name.startswith("dev"):
            inside = [set(one["sv"]) <= named[0] for one in dialogues]
    return [one for one, known in zip(talks, inside, strict=True) if known]  # pyright: ignore[reportPossiblyUnboundVariable]


def latency(model: AnyModel, talks: Talks) -> dict[str, float]:
    """Milliseconds on one thread, medians: until a message is answered, and until the first piece of a reply."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stream, first, whole = model.stream(), list[float](), list[float]()
    asked = [(one.name, turn) for one in talks[:30] for turn in one.turns if turn.speaker == "user"][:200]
    for name, turn in asked:
        started = time.perf_counter()
        for number, _ in enumerate(stream.push(Said(name, turn))):
            if number == 1:  # the one before holds what was understood
                first.append(time.perf_counter() - started)
        whole.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    found = {"message": 1000 * float(np.median(whole))}
    if first:
        found["first piece"], found["first piece, 95 %"] = (1000 * np.quantile(first, (0.5, 0.95))).tolist()
    return found


def scored(name: str, task: Task, run: Run, data: Data, folder: Path) -> dict[str, Any]:
    """The test part, read once."""
    model = run.finish()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.safetensors"
        model.save(path)
        size = path.stat().st_size
    scores = model.evaluate(data.test)
    found: dict[str, Any] = {"scores": scores, "published": task.published}
    if name == "sgd":
        found["without acts"] = model.evaluate(without_facts(data.test))
        found["services of train only"] = model.evaluate(known_services(folder, data.test))
        found["greedy"] = model.using(beam=1).evaluate(data.test[:300])
        found["replies"] = sum(
            is_answered(*pair) for one in data.test for pair in zip(one.turns, one.turns[1:], strict=False)
        )
    else:
        scores["TF-IDF + SVM"] = vector_machine(data.train, data.test)
    return found | {
        "steps": run.step,
        "best_step": run.best_step,
        "train_seconds": run.seconds,
        "milliseconds": latency(model.using(beam=1), data.test),
        "weights": sum(p.numel() for p in model.net.parameters()),
        "model_bytes": size,
        "settings": dataclasses.asdict(run.application),
        "recipe": dataclasses.asdict(run.recipe),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


WAYS: dict[str, dict[str, Any]] = {
    "chosen": {},
    "beam 4": {"beam": 4, "missing": 0.0},
    "missing 0.05": {"beam": 4, "missing": 0.05},
    "missing 0.2": {"beam": 4, "missing": 0.2},
    "missing 1": {"beam": 4, "missing": 1.0},
    "beam 8, missing 0.2": {"beam": 8, "missing": 0.2},
}


def chosen(name: str, run: Run, data: Data) -> dict[str, Any]:
    """Validation's scores."""
    model = run.finish()
    if name == "sgd":
        found = dict[str, Any]()
        for way, changed in WAYS.items():
            found[way] = model.using(**changed).evaluate(data.valid)["holdfast"]
            print(f"  {way}: {json.dumps(found[way])}", flush=True)
        return found
    found = {"calibration error": calibration(model, data.valid)}
    return model.evaluate(data.valid) | {"TF-IDF + SVM": vector_machine(data.train, data.valid)} | found


def calibration(model: AnyModel, valid: Talks) -> dict[str, float]:
    """Each half of validation judged with the temperature that the other half gives, and without; means of both."""
    halves = [[one for n, one in enumerate(valid) if n % 2 == side] for side in (0, 1)]
    errors: dict[str, list[float]] = {"with a temperature": [], "without": []}
    for known, judged in (halves, halves[::-1]):
        codec = model.application.calibrate(model.net, model.codec, known)
        plain = dataclasses.replace(codec, messages=dataclasses.replace(codec.messages, temperature=1.0))
        for found, used in zip(errors.values(), (codec, plain), strict=True):
            scores = Model(model.application, used, model.net, model.card).evaluate(judged)
            found.append(scores["holdfast"]["calibration_error"])
    return {way: float(np.mean(found)) for way, found in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--minutes", type=float, default=1e9, help="for each task; what is trained by then is kept")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--choose", action="store_true", help="score validation, not test")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.task or TASKS:
        task = TASKS[name]
        recipe = dataclasses.replace(task.recipe, seed=given.seed, steps=given.steps or task.recipe.steps)
        data = task.load(given.data)
        own = bool(data.valid)
        if given.choose and not own:
            data = Data(*task.app.split(data.train, np.random.default_rng(0)), [])
        print(f"{name}: {len(data.train)} for training, {len(data.valid)} for validation", flush=True)
        run = Run(task.app, data.train, data.valid, recipe)
        # Where validation is a part of its own, the same training is judged by either.
        saved = None if given.choose and not own else RESULTS.with_name(f"apps_chat_{name}_{given.seed}.run")
        if not train(run, saved, given.minutes):
            print(f"  not finished: step {run.step} of {recipe.steps}; the same command goes on")
        elif given.choose:
            print(json.dumps(chosen(name, run, data), indent=1), flush=True)
        elif run.finished:
            command = f"benchmarks/apps_chat.py DATA --task {name}" + (f" --steps {given.steps}" if given.steps else "")
            found = {**scored(name, task, run, data, given.data), "seed": given.seed, "command": command}
            print(json.dumps(found, indent=1), flush=True)
            results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}  # another task may have ended since
            results.setdefault("test", {})[name] = found
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
