"""Messages -> what their writers want, and the details that they name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .conversation import Asked, Slot
from .message_features import words_of
from .message_network import MessageNetwork, gather, together
from .message_vocabulary import OWN, MessageFacts
from .out_of_scope import fit_scores
from .slots import likeliest_tags, slots_in, tag_names

AT_ONCE = 64  # messages in one batch
ALTERNATIVES = 3


@dataclass(frozen=True)
class Understood:
    """One message."""

    intent: str | None  # None: none of those that are known
    confidence: float  # the probability of the likeliest intent, whether it is taken or not
    alternatives: tuple[tuple[str, float], ...]  # the likeliest intents with their probabilities, best first
    slots: tuple[Slot, ...]  # in order, with values as they stand in the text


def understand(net: MessageNetwork, facts: MessageFacts, messages: Sequence[Asked]) -> list[Understood]:
    """Every message by itself, in order; one alone or among others is understood the same."""
    found: list[Understood] = []
    for begin in range(0, len(messages), AT_ONCE):
        found += understand_batch(net, facts, messages[begin : begin + AT_ONCE])
    return found


def understand_batch(net: MessageNetwork, facts: MessageFacts, messages: Sequence[Asked]) -> list[Understood]:
    """A few messages at once."""
    intents, tags = read(net, facts, messages)
    names = tag_names(facts.slots)
    found: list[Understood] = []
    for asked, logits, scores in zip(messages, intents, tags, strict=True):
        words = words_of(asked.turn.text)
        slots: list[Slot] = []
        if facts.slots and words:
            best = likeliest_tags(scores)
            slots = slots_in(asked.turn.text, words, [names[tag] for tag in best.tolist()])
        found.append(understood(facts, logits, slots))
    return found


def understood(facts: MessageFacts, logits: np.ndarray, slots: Sequence[Slot]) -> Understood:
    """From a message's logits [classes] and its slots."""
    if not facts.intents:
        return Understood(None, 0.0, (), tuple(slots))
    known = len(facts.intents)
    powers = np.exp((logits - logits.max()) / facts.temperature)
    chances = powers[:known] / powers.sum()
    order = np.argsort(-chances, kind="stable")[:ALTERNATIVES]
    alternatives = tuple((facts.intents[place], float(chances[place])) for place in order.tolist())
    taken = fit_scores(logits[None], known)[0] >= facts.threshold
    return Understood(alternatives[0][0] if taken else None, alternatives[0][1], alternatives, tuple(slots))


def read(net: MessageNetwork, facts: MessageFacts, asked: Sequence[Asked]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of intents [messages, classes] and of every message's own tags [words, tags], all voices together."""
    training = net.training
    if training:  # a walk over all modules, which one message would feel
        net.eval()
    messages = [facts.message(one) for one in asked]
    with torch.inference_mode():
        intents, tags = together(net(gather(facts, messages)))
    if training:
        net.train()
    rows = zip(messages, tags.transpose(0, 1).numpy(), strict=True)
    return intents.numpy(), [row[: len(one.words)][one.roles == OWN] for one, row in rows]
