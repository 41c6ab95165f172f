"""Batches of conversations: some messages at once, with what was said around them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .conversation import Conversation, Turn, asked
from .exchanges import MOST_TURNS, Exchanges, Limits, Spoken, exchanges, is_answered, spoken
from .message_network import Messages, gather
from .message_vocabulary import Message, MessageFacts
from .tokens import Vocabulary

GROUP = 32  # batches sorted together: like sizes stand together, and still all is well mixed


class Piece(NamedTuple):
    """Some turns of a conversation, in numbers."""

    spoken: Spoken | None  # None where no replies are learned
    messages: tuple[Message, ...]  # the user's; none where nothing is understood


class Steps(NamedTuple):
    """A batch."""

    exchanges: Exchanges | None  # None: there is no reply in it
    messages: Messages | None


def pieces_of(
    conversation: Conversation, vocabulary: Vocabulary | None, facts: MessageFacts | None, longest: int
) -> Iterator[Piece]:
    """A conversation in pieces of some turns."""
    messages = iter(() if facts is None else asked(conversation.turns, facts.context))
    for part in parts_of(conversation.turns):
        own = itertools.islice(messages, sum(turn.speaker == "user" for turn in part))
        known = () if facts is None else tuple(map(facts.message, own))
        yield Piece(None if vocabulary is None else spoken(vocabulary, part, longest), known)


def parts_of(turns: Sequence[Turn]) -> Iterator[Sequence[Turn]]:
    """Some turns at a time; a message and its reply stay together."""
    at = 0
    while at < len(turns):
        end = at + MOST_TURNS
        end += end < len(turns) and is_answered(turns[end - 1], turns[end])
        yield turns[at:end]
        at = end


def batched(pieces: Sequence[Piece], size: int, rng: np.random.Generator | None) -> Iterator[list[Piece]]:
    """Pieces of ``size`` messages together, or a few more; every piece once. Without dice in order."""
    if rng is None:
        yield from filled(pieces, size)
        return
    batches: list[list[Piece]] = []
    for group in filled([pieces[n] for n in rng.permutation(len(pieces)).tolist()], size * GROUP):
        batches += filled(sorted(group, key=longest_of), size)
    for number in rng.permutation(len(batches)).tolist():
        yield batches[number]


def weight(piece: Piece) -> int:
    """Messages that are answered or understood."""
    return max(1, len(piece.messages), 0 if piece.spoken is None else len(piece.spoken.answered))


def longest_of(piece: Piece) -> int:
    texts = [] if piece.spoken is None else [len(text) for text in piece.spoken.texts]
    return max([*texts, *(len(message.words) for message in piece.messages)], default=0)


def filled(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    held = 0
    for piece in pieces:
        batch.append(piece)
        held += weight(piece)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def steps_of(
    batch: Sequence[Piece],
    facts: MessageFacts | None,
    limits: Limits,
    end: int,
    hidden: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Steps:
    """Pieces as tensors; with dice a share of the replies are not shown their facts."""
    said = [piece.spoken for piece in batch if piece.spoken is not None]
    replies = sum(len(one.answered) for one in said)
    hide = None if rng is None or not hidden else rng.random(replies) < hidden
    messages = [message for piece in batch for message in piece.messages]
    return Steps(
        exchanges(said, end, limits, hide) if replies else None,
        gather(facts, messages) if facts is not None and messages else None,
    )


def labelled(turns: Sequence[Turn]) -> bool:
    """Whether anything is said of what messages mean."""
    return any(turn.intent is not None or turn.slots for turn in turns if turn.speaker == "user")
