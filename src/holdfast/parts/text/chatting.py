"""Conversations at work: every message of a user is answered, many conversations at once."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..errors import DataError
from ..packing import pack, unpack
from .answers import Answer, Answered, joined
from .conversation import Asked, Conversation, Speaker, Turn
from .message_vocabulary import end_of
from .replying import Replying, Talk, Written, packed_talk, unpacked_talk
from .understanding import Understood

MOST: Final = 10_000  # conversations that are kept; then the one that was silent longest is forgotten


class Said(NamedTuple):
    """What arrives."""

    conversation: str
    turn: Turn | None  # None: the conversation is over


@dataclass
class Known:
    """What a bot knows of one conversation."""

    number: int = 0  # messages of the user so far
    talk: Talk | None = None  # None of a model that writes no replies
    waiting: str = ""  # the bot's last reply, until something else is said: perhaps what was really said comes
    turns: tuple[Turn, ...] = ()  # the last ones, of each the end


class Chatting:
    """A model at work in conversations.

    Args:
        understand: what texts mean; None: nobody taught it.
        replying: writes replies; None: nobody taught it.
        context: turns before a message by which it is understood.
    """

    def __init__(
        self,
        understand: Callable[[Sequence[Asked]], list[Understood]] | None,
        replying: Replying | None,
        context: int = 0,
    ) -> None:
        self.understand, self.replying, self.context = understand, replying, context

    def fresh(self) -> Known:
        return Known(talk=None if self.replying is None else self.replying.fresh())

    def hear(self, known: Known, turn: Turn) -> None:
        """Another turn is said. What the bot said itself was said, unless this is what was really said."""
        if known.waiting and turn.speaker == "user":
            self.take_in(known, "bot", known.waiting)
        known.waiting = ""
        self.take_in(known, turn.speaker, turn.text)
        known.number += turn.speaker == "user"

    def take_in(self, known: Known, speaker: Speaker, text: str) -> None:
        """Something was said."""
        if self.replying is not None and known.talk is not None:
            known.talk = self.replying.hear(known.talk, speaker, text)
        known.turns = (*known.turns, Turn(speaker, end_of(text)))[-1 - self.context :]

    def answer(self, known: Known, turn: Turn) -> Iterator[Answer]:
        """The answer to a message that was heard, in parts where it is written token by token."""
        meant = None if self.understand is None else self.understand([Asked(turn, known.turns[:-1])])[0]
        if self.replying is None or known.talk is None:
            yield Answer(known.number, turn.text, meant, ())
            return
        begin = self.replying.begin(known.talk, turn.facts)
        if self.replying.style.search.beam > 1:
            ways = self.replying.best([begin], [turn.facts])[0]
            known.waiting = ways[0].text
            yield Answer(known.number, turn.text, meant, tuple(ways))
            return
        yield Answer(known.number, turn.text, meant, (Written("", 0.0, 0.0),))
        for piece in self.replying.write(begin, known.number):
            if piece:
                known.waiting += piece
                yield Answer(known.number, turn.text, meant, (Written(piece, 0.0, 0.0),))

    def answers(self, conversation: Conversation) -> Answered:
        """To every message of a user. Where the conversation holds the bot's own answer, it goes on with that."""
        known, parts = self.fresh(), list[Answer]()
        for turn in conversation.turns:
            self.hear(known, turn)
            if turn.speaker == "user":
                parts += self.answer(known, turn)
        return Answered(conversation.name, joined(parts))


class ChatStreaming:
    """Messages of many conversations as they come, each answered at once."""

    def __init__(self, chatting: Chatting, kind: str) -> None:
        self.chatting, self.kind = chatting, f"chat {kind}"
        self.known: OrderedDict[str, Known] = OrderedDict()

    def push(self, piece: Said) -> Iterable[Answered]:
        """The answer to a message, in parts where it is written token by token."""
        name, turn = piece
        if turn is None:
            self.known.pop(name, None)
            return
        known = self.known.setdefault(name, self.chatting.fresh())
        self.known.move_to_end(name)
        if len(self.known) > MOST:
            self.known.popitem(last=False)
        self.chatting.hear(known, turn)
        if turn.speaker == "user":
            for answer in self.chatting.answer(known, turn):
                yield Answered(name, (answer,))

    def flush(self) -> list[Answered]:
        """All conversations are over."""
        self.known.clear()
        return []

    def state(self) -> bytes:
        """All conversations as bytes: each of the same size, however long it was."""
        values: dict[str, Any] = {"names": list(self.known), "numbers": [], "waiting": [], "last": [], "turns": []}
        arrays: dict[str, Any] = {}
        for place, known in enumerate(self.known.values()):
            values["numbers"].append(known.number)
            values["waiting"].append(known.waiting)
            values["turns"].append([[turn.speaker, turn.text] for turn in known.turns])
            values["last"].append(None if known.talk is None else len(known.talk.last))
            if known.talk is not None:
                arrays |= {f"{place} {name}": array for name, array in packed_talk(known.talk).items()}
        return pack(self.kind, values, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from state(). Raises DataError where the bytes are not a state of this model."""
        values, arrays = unpack(self.kind, state)
        found: OrderedDict[str, Known] = OrderedDict()
        try:
            for place, name in enumerate(values["names"]):
                last = values["last"][place]
                own = {key.split(" ", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{place} ")}
                talk = None if last is None else unpacked_talk(own, int(last))
                turns = tuple(Turn(speaker, str(text)) for speaker, text in values["turns"][place])
                found[str(name)] = Known(int(values["numbers"][place]), talk, str(values["waiting"][place]), turns)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"these bytes are not the state of a bot: {error}") from None
        self.known = found
