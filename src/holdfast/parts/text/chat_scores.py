"""A bot's scores: intents, slots and replies, each beside its baseline."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..classification import best_temperature
from ..errors import DataError
from .chat_network import ChatNetwork
from .conversation import Asked, Conversation, Turn, asked
from .exchanges import is_answered
from .message_features import words_of
from .message_network import MessageNetwork
from .message_scores import intent_scores, slot_scores, understood_scores
from .message_vocabulary import MessageFacts
from .out_of_scope import choose_threshold, fit_scores
from .reply_scores import judge_replies
from .replying import Replying
from .slots import standing_in
from .spoken_batches import Steps, labelled
from .templates import Templates
from .understanding import read, understand

Rows = dict[str, dict[str, float]]


def judge_chat(
    net: ChatNetwork,
    facts: MessageFacts | None,
    replying: Replying | None,
    templates: Templates | None,
    examples: Sequence[Conversation],
    batches: Iterable[Steps],
) -> Rows:
    """Who -> metric -> value, of all that the examples hold answers to. Raises DataError where they hold none."""
    rows: Rows = {"holdfast": {}}
    messages = [message for one in examples for message in asked(one.turns, 0 if facts is None else facts.context)]
    if net.messages is not None and facts is not None and labelled([one.turn for one in messages]):
        for who, scores in judge_messages(net.messages, facts, messages).items():
            rows.setdefault(who, {}).update(scores)
    pairs = [pair for one in examples for pair in itertools.pairwise(one.turns) if is_answered(*pair)]
    if replying is not None and templates is not None and pairs:
        for who, scores in judge_writing(replying, templates, pairs, batches).items():
            rows.setdefault(who, {}).update(scores)
    if not rows["holdfast"]:
        hint = "intents, slots or replies that the model was taught"
        raise DataError("these conversations hold no answers to compare with", hint=hint)
    return rows


def judge_messages(net: MessageNetwork, facts: MessageFacts, messages: Sequence[Asked]) -> Rows:
    """Of users' messages whose intents or slots are known."""
    rows: Rows = {"holdfast": {}}
    found, turns = understand(net, facts, messages), [one.turn for one in messages]
    told = [(turn, one) for turn, one in zip(turns, found, strict=True) if turn.intent is not None]
    if told and facts.intents:
        truth = [turn.intent or "" for turn, _ in told]
        rows["holdfast"] |= understood_scores(truth, [one for _, one in told], facts.outside)
        rows["naive Bayes"] = baseline_scores(facts, truth, [turn.text for turn, _ in told])
    tagged = [(turn, one) for turn, one in zip(turns, found, strict=True) if turn.slots is not None]
    if tagged and facts.slots:
        wanted = [standing_in(turn.text, words_of(turn.text), turn.slots or ()) for turn, _ in tagged]
        rows["holdfast"] |= slot_scores(wanted, [one.slots for _, one in tagged])
    return rows


def baseline_scores(facts: MessageFacts, truth: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Naive Bayes' own choice, which may be the intent for what is out of scope."""
    chances = facts.baseline.probabilities([[word.text for word in words_of(text)] for text in texts])
    known = chances[:, : len(facts.intents)]
    inside = chances.argmax(axis=1) < len(facts.intents)
    names = [facts.intents[place] for place in known.argmax(axis=1).tolist()]
    taken = [name if kept else None for name, kept in zip(names, inside.tolist(), strict=True)]
    return intent_scores(truth, names, taken, known.max(axis=1).tolist(), facts.outside)


def threshold_of(net: MessageNetwork, facts: MessageFacts, messages: Sequence[Asked], accepted: float) -> float:
    """What is out of scope, by messages that were not learned from: so that this share of the others is accepted."""
    told = [one for one in messages if one.turn.intent is not None]
    if not told or not facts.intents:
        return facts.threshold
    logits, _ = read(net, facts, told)
    scores = fit_scores(logits, len(facts.intents))
    inside = [one.turn.intent != facts.outside for one in told]
    return choose_threshold(scores[inside], scores[[not one for one in inside]], accepted)


def temperature_of(net: MessageNetwork, facts: MessageFacts, messages: Sequence[Asked]) -> float:
    """What makes the intents' probabilities honest, by messages that were not learned from."""
    told = [one for one in messages if one.turn.intent in facts.class_numbers]
    if not told or not facts.intents:
        return facts.temperature
    logits = torch.from_numpy(read(net, facts, told)[0]).double()
    truth = np.array([facts.class_numbers[one.turn.intent or ""] for one in told])
    return best_temperature(truth, logits.softmax(-1).numpy())


def judge_writing(
    replying: Replying, templates: Templates, pairs: Sequence[tuple[Turn, Turn]], batches: Iterable[Steps]
) -> Rows:
    """Of replies to messages, each with what was really said; the batches hold the same in the same order."""
    references, known = [after.text for _, after in pairs], [turn.facts for turn, _ in pairs]
    said: list[str] = []
    nats = count = 0.0
    for batch in batches:
        if batch.exchanges is not None:
            with torch.inference_mode():
                surprise = replying.net(batch.exchanges)
            nats, count = nats + float(surprise.sum()), count + surprise.numel()
            begins = replying.begins(batch.exchanges)
            own = known[len(said) : len(said) + len(begins)]
            said += [ways[0].text for ways in replying.best(begins, own)]
    ours = judge_replies(said, references, known) | {"perplexity": math.exp(min(nats / max(1, count), 700.0))}
    usual = [templates.table.get("", "")] * len(pairs)
    return {
        "holdfast": ours,
        "templates": judge_replies([templates.reply(facts) for facts in known], references, known),
        "most frequent": judge_replies(usual, references, known),
    }
