"""Conversations as numbers: every text is read once, and every reply looks at some of them.

A reply looks at its facts, at the message that it answers and at what was said shortly before. What was said earlier
reaches it through the state of the conversation.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .conversation import Turn, told
from .tokens import Vocabulary
from .translating import spaced

USER: Final = 0  # kinds of texts
BOT: Final = 1
FACTS: Final = 2
IGNORED: Final = -100  # the target past a reply's end
MOST_TURNS: Final = 40  # of a conversation that are learned from together


@dataclass(frozen=True)
class Spoken:
    """A piece of a conversation, the end token behind each text."""

    texts: tuple[np.ndarray, ...]  # tokens of every turn, then of the facts of every message that was answered
    kinds: tuple[int, ...]
    turns: int  # how many of them are turns
    answered: tuple[tuple[int, int], ...]  # (turn of a message, text of its facts); the reply is the turn behind it


class Exchanges(NamedTuple):
    """A batch; time first."""

    tokens: Tensor  # [time, texts] int64, all texts of all conversations
    lengths: Tensor  # [texts]
    kinds: Tensor  # [texts]
    order: Tensor  # [turns, conversations]: which text each turn is; any past a conversation's end
    turns: Tensor  # [conversations]: how many
    at: Tensor  # [replies, 2]: turn and conversation of the message that is answered
    message: Tensor  # [replies]: its text
    facts: Tensor  # [replies]: the text of the facts
    said: Tensor  # [said]: where tokens has them, text by text without padding, as time * texts + text
    places: Tensor  # [replies, seen]: what is looked at, as places in ``said``; any past a row's end
    ages: Tensor  # [replies, seen]: 0 facts, 1 the message, 2 what was said before, ...
    outside: Tensor  # [replies, seen] bool: past a row's end
    before: Tensor  # [steps, replies] int64: the token before each of the reply's
    targets: Tensor  # [steps, replies] int64, IGNORED past a row's end, and where a reply was cut instead of ended
    steps: Tensor  # [replies]: tokens of each reply, its end among them


class Limits(NamedTuple):
    """How much is looked at."""

    longest: int  # tokens of a text; of longer ones the beginning is read
    window: int  # messages that a reply looks at, the one that it answers among them


def in_tokens(vocabulary: Vocabulary, text: str, longest: int) -> np.ndarray:
    """[tokens] int64, the end token among them."""
    return np.append(vocabulary.encode(spaced(text))[:longest], vocabulary.start)


def spoken(vocabulary: Vocabulary, turns: Sequence[Turn], longest: int) -> Spoken:
    """Some turns in a row as tokens."""
    texts = [in_tokens(vocabulary, turn.text, longest) for turn in turns]
    kinds = [USER if turn.speaker == "user" else BOT for turn in turns]
    answered: list[tuple[int, int]] = []
    for place, (turn, after) in enumerate(itertools.pairwise(turns)):
        if is_answered(turn, after):
            answered.append((place, len(texts)))
            texts.append(in_tokens(vocabulary, told(turn.facts), longest))
            kinds.append(FACTS)
    return Spoken(tuple(texts), tuple(kinds), len(turns), tuple(answered))


def is_answered(turn: Turn, after: Turn) -> bool:
    return turn.speaker == "user" and after.speaker == "bot" and bool(after.text.strip())


def padded(rows: Sequence[np.ndarray], fill: int = 0) -> Tensor:
    """[longest, rows] int64."""
    longest = max(map(len, rows), default=0)
    whole = np.full((longest, len(rows)), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        whole[: len(row), number] = row
    return torch.from_numpy(whole)


def exchanges(pieces: Sequence[Spoken], end: int, limits: Limits, hidden: np.ndarray | None = None) -> Exchanges:
    """The batch of some pieces.

    Args:
        pieces: at least one with a text.
        end: the token that ends a text, and stands before its first.
        limits: as they were when the pieces were cut.
        hidden: [replies] bool, whose facts are not shown; None: all are.
    """
    texts = [text for piece in pieces for text in piece.texts]
    first = np.cumsum([0, *(len(piece.texts) for piece in pieces)])  # text of each piece
    tokens = padded(texts)
    found = [
        (first[number] + turn, first[number] + facts, turn, number)
        for number, piece in enumerate(pieces)
        for turn, facts in piece.answered
    ]
    if hidden is not None:
        nothing = np.array([end])
        for (_, facts, _, _), hide in zip(found, hidden, strict=True):
            if hide:
                texts[facts] = nothing
        tokens = padded(texts)
    seen = [[facts, *range(text, text - min(limits.window, turn + 1), -1)] for text, facts, turn, _ in found]
    starts = np.cumsum([0, *map(len, texts)])
    looks = [look(texts, row, starts) for row in seen]
    replies = [texts[text + 1] for text, *_ in found]
    most = max((len(places) for places, _ in looks), default=1)
    lengths = torch.tensor([len(places) for places, _ in looks], dtype=torch.int64)
    return Exchanges(
        tokens,
        torch.tensor([len(text) for text in texts]),
        torch.tensor([kind for piece in pieces for kind in piece.kinds]),
        padded([np.arange(at, at + piece.turns) for at, piece in zip(first, pieces, strict=False)]),
        torch.tensor([piece.turns for piece in pieces]),
        torch.tensor([(turn, number) for _, _, turn, number in found], dtype=torch.int64).view(-1, 2),
        torch.tensor([text for text, *_ in found], dtype=torch.int64),
        torch.tensor([facts for _, facts, _, _ in found], dtype=torch.int64),
        torch.from_numpy(np.concatenate([np.arange(len(text)) * len(texts) + n for n, text in enumerate(texts)])),
        padded([places for places, _ in looks]).T.contiguous(),
        padded([ages for _, ages in looks]).T.contiguous(),
        torch.arange(most) >= lengths.unsqueeze(1),
        padded([np.append(end, reply[:-1]) for reply in replies]),
        targets_of(replies, limits.longest),
        torch.tensor([len(reply) for reply in replies], dtype=torch.int64),
    )


def targets_of(replies: Sequence[np.ndarray], longest: int) -> Tensor:
    """[steps, replies]: what is to be told; that a reply of more tokens than are read ends there is not."""
    targets = padded(replies, IGNORED)
    for number, reply in enumerate(replies):
        if len(reply) > longest:
            targets[len(reply) - 1, number] = IGNORED
    return targets


def look(texts: Sequence[np.ndarray], seen: Sequence[int], starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places, ages) of all tokens of some texts, which begin at these places."""
    places = np.concatenate([starts[text] + np.arange(len(texts[text])) for text in seen])
    ages = np.repeat(np.arange(len(seen)), [len(texts[text]) for text in seen])
    return places, ages
