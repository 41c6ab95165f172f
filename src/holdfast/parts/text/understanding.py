"""Messages -> what their writers want, and the details that they name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .conversation import Slot, Turn
from .message_features import words_of
from .message_network import MessageNetwork, gather, together
from .message_vocabulary import MessageFacts
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


def understand(net: MessageNetwork, facts: MessageFacts, texts: Sequence[str]) -> list[Understood]:
    """Every text by itself, in order; a text alone or among others is understood the same."""
    found: list[Understood] = []
    for begin in range(0, len(texts), AT_ONCE):
        found += understand_batch(net, facts, texts[begin : begin + AT_ONCE])
    return found


def understand_batch(net: MessageNetwork, facts: MessageFacts, texts: Sequence[str]) -> list[Understood]:
    """A few texts at once."""
    intents, tags = read(net, facts, [Turn("user", text) for text in texts])
    names = tag_names(facts.slots)
    found: list[Understood] = []
    for number, text in enumerate(texts):
        words = words_of(text)
        slots: list[Slot] = []
        if facts.slots and words:
            best = likeliest_tags(tags[number][: len(words)])
            slots = slots_in(text, words, [names[tag] for tag in best.tolist()])
        found.append(understood(facts, intents[number], slots))
    return found


def understood(facts: MessageFacts, logits: np.ndarray, slots: Sequence[Slot]) -> Understood:
    """From a message's logits [classes] and its slots."""
    if not facts.intents:
        return Understood(None, 0.0, (), tuple(slots))
    known = len(facts.intents)
    powers = np.exp(logits - logits.max())
    chances = powers[:known] / powers.sum()
    order = np.argsort(-chances, kind="stable")[:ALTERNATIVES]
    alternatives = tuple((facts.intents[place], float(chances[place])) for place in order.tolist())
    taken = fit_scores(logits[None], known)[0] >= facts.threshold
    return Understood(alternatives[0][0] if taken else None, alternatives[0][1], alternatives, tuple(slots))


def read(net: MessageNetwork, facts: MessageFacts, turns: Sequence[Turn]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of intents [messages, classes] and of tags [messages, time, tags], all voices together."""
    training = net.training
    if training:  # a walk over all modules, which one message would feel
        net.eval()
    with torch.inference_mode():
        intents, tags = together(net(gather(facts, [facts.message(turn) for turn in turns])))
    if training:
        net.train()
    return intents.numpy(), tags.transpose(0, 1).numpy()
