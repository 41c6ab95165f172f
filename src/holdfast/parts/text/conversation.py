"""What is said in a conversation, by whom, and what is known about it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Speaker = Literal["user", "bot"]


class Slot(NamedTuple):
    """A detail that a message names."""

    name: str
    value: str  # as it stands in the message


@dataclass(frozen=True)
class Turn:
    """One message."""

    speaker: Speaker
    text: str
    intent: str | None = None  # what the user wants; None: nobody said
    slots: tuple[Slot, ...] | None = None  # details that the user names; None: nobody said
    facts: str = ""  # what the bot has to say, or may: results of a query, acts


@dataclass(frozen=True)
class Conversation:
    """Turns in their order."""

    name: str
    turns: tuple[Turn, ...]
