"""Real messages: more is understood than by counting words, and slots stand where the annotators saw them."""

import csv
import itertools
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from holdfast.parts.text.conversation import Asked, Slot, Turn
from holdfast.parts.text.message_features import words_of
from holdfast.parts.text.message_network import MessageNetwork, Rates, Sizes, gather
from holdfast.parts.text.message_scores import intent_scores, understood_scores
from holdfast.parts.text.message_vocabulary import learn_messages
from holdfast.parts.text.slots import slots_in, standing_in, tags_of
from holdfast.parts.text.understanding import understand


def questions(shared_data: Path, intents: int, each: int) -> list[Turn]:
    """Messages to a bank, the first ones of some intents."""
    found: Counter[str] = Counter()
    turns: list[Turn] = []
    with lzma.open(shared_data / "banking77" / "train.csv.xz", "rt", encoding="utf8") as file:
        for row in csv.DictReader(file):
            found[row["category"]] += 1
            if len(found) <= intents and found[row["category"]] <= each:
                turns.append(Turn("user", row["text"], row["category"]))
    return turns


def dialogues(shared_data: Path) -> Iterator[Turn]:
    with lzma.open(shared_data / "sgd_dialogues" / "dev.jsonl.xz", "rt", encoding="utf8") as file:
        for turn in (turn for line in file for turn in json.loads(line)["turns"] if turn["s"] == "U"):
            acts = (act for act in turn["a"] if act[0] == "INFORM" and len(act) > 2)
            yield Turn("user", turn["t"], turn.get("i"), tuple(Slot(act[1], value) for act in acts for value in act[2]))


def test_intents_of_a_bank_are_learned_better_than_by_counting_words(shared_data: Path) -> None:
    turns = questions(shared_data, intents=20, each=30)
    train, asked = [t for n, t in enumerate(turns) if n % 3], turns[::3]
    facts = learn_messages([Asked(turn) for turn in train])
    torch.manual_seed(0)
    net = MessageNetwork(facts, Sizes(24, 24, 1, 1), Rates(0.1, 0.2, 0.1, 0.0, 0.1))
    messages = [facts.message(Asked(turn)) for turn in train]
    optimiser, rng = torch.optim.AdamW(net.parameters(), lr=0.01), np.random.default_rng(0)
    for _ in range(100):
        batch = gather(facts, [messages[n] for n in rng.choice(len(messages), 32, replace=False)])
        optimiser.zero_grad()
        loss = net.loss(net(batch), batch)
        (loss.intent / loss.intents).backward()
        optimiser.step()
    truth = [turn.intent or "" for turn in asked]
    ours = understood_scores(truth, understand(net, facts, [Asked(turn) for turn in asked]), None)
    chances = facts.baseline.probabilities([[word.text for word in words_of(turn.text)] for turn in asked])
    counted = [facts.intents[place] for place in chances.argmax(axis=1)]
    baseline = intent_scores(truth, counted, counted, chances.max(axis=1).tolist(), None)
    assert baseline["accuracy"] > 0.6  # a baseline worth beating: by chance it would be a twentieth
    assert ours["accuracy"] > baseline["accuracy"]


def test_nearly_all_values_of_several_words_stand_in_the_text(shared_data: Path) -> None:
    turns = list(itertools.islice(dialogues(shared_data), 1500))
    said = found = 0
    for turn in turns:
        # Of one word are also "True", "dontcare" and "3" where the text has "three": no text says them.
        words, slots = words_of(turn.text), [slot for slot in turn.slots or () if " " in slot.value]
        standing = standing_in(turn.text, words, slots)
        assert slots_in(turn.text, words, tags_of(turn.text, words, standing)) == standing
        said, found = said + len(slots), found + len({slot.name for slot in standing})
    assert said > 300 and found > 0.97 * said
