"""Replies from templates: the baseline of a bot that writes.

What was said most often where facts of these names were to be told, their values put in; without facts what was said
most often at all.
"""

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .conversation import Conversation, Slot

MOST: Final = 5000  # kinds of facts that are kept, the most frequent ones
PLACE = re.compile(r"\{(\d+)\}")


@dataclass(frozen=True)
class Templates:
    """A reply for each kind of facts."""

    kinds: tuple[str, ...]  # names of facts, one behind the other
    replies: tuple[str, ...]  # {0} stands for the first fact's value

    @functools.cached_property
    def table(self) -> dict[str, str]:
        return dict(zip(self.kinds, self.replies, strict=True))

    def reply(self, facts: Sequence[Slot]) -> str:
        """What is said where these are to be told; of facts of a kind that was never met the values alone."""
        ordered = sorted(facts)
        template = self.table.get(kind_of(ordered))
        if template is None:
            return ", ".join(fact.value for fact in facts if fact.value) or self.table.get("", "")
        return PLACE.sub(lambda match: ordered[int(match[1])].value, template)


def kind_of(ordered: Sequence[Slot]) -> str:
    return "|".join(name for name, _ in ordered)


def template_of(reply: str, ordered: Sequence[Slot]) -> str:
    """A reply with {n} in the place of the n-th fact's value, longer values first."""
    reply = reply.replace("{", "(").replace("}", ")")
    for place in sorted(range(len(ordered)), key=lambda n: -len(ordered[n].value)):
        value = ordered[place].value
        if value and (at := reply.lower().find(value.lower())) >= 0 and len(reply.lower()) == len(reply):
            reply = f"{reply[:at]}{{{place}}}{reply[at + len(value) :]}"
    return reply


def learn_templates(conversations: Sequence[Conversation]) -> Templates:
    """Of all replies."""
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for conversation in conversations:
        for turn, after in itertools.pairwise(conversation.turns):
            if turn.speaker == "user" and after.speaker == "bot" and after.text:
                ordered = sorted(turn.facts)
                said[kind_of(ordered)][template_of(after.text, ordered)] += 1
                said[""][after.text] += 1
    kept = sorted(said, key=lambda kind: (-said[kind].total(), kind))[:MOST]
    return Templates(
        tuple(kept), tuple(max(said[kind].items(), key=lambda item: (item[1], item[0]))[0] for kind in kept)
    )
