"""What is said in a conversation, by whom, and what is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Speaker = Literal["user", "bot"]


class Slot(NamedTuple):
    """A detail with its name."""

    name: str
    value: str  # as it stands in the message


@dataclass(frozen=True)
class Turn:
    """One message."""

    speaker: Speaker
    text: str
    intent: str | None = None  # what the user wants; None: nobody said
    slots: tuple[Slot, ...] | None = None  # details that the user names; None: nobody said
    facts: tuple[Slot, ...] = ()  # of the user's: what the answer has to say, or may: results of a query, acts


@dataclass(frozen=True)
class Conversation:
    """Turns in their order."""

    name: str
    turns: tuple[Turn, ...]


class Asked(NamedTuple):
    """A user's message, and what was said shortly before it."""

    turn: Turn
    before: tuple[Turn, ...] = ()  # the oldest first


def asked(turns: Sequence[Turn], context: int) -> list[Asked]:
    """A conversation's messages of users, each with so many turns before it."""
    return [
        Asked(turn, tuple(turns[max(0, place - context) : place]))
        for place, turn in enumerate(turns)
        if turn.speaker == "user"
    ]


def told(facts: tuple[Slot, ...]) -> str:
    """Facts as a line of text."""
    return "; ".join(" = ".join(part for part in (name.replace("_", " "), value) if part) for name, value in facts)
