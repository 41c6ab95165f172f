"""Writing on: token after token, each drawn from what the network expects next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .sampling import Sampling
from .surprise import Reader
from .tokens import Vocabulary

REMEMBERED = 4096  # tokens that penalties look back on


@dataclass(frozen=True)
class Wish:
    """What is to be written."""

    length: int  # tokens at most
    sampling: Sampling
    stop: tuple[str, ...] = ()  # strings before which writing ends
    seed: int = 0


@dataclass
class Past:
    """The last tokens of what was read and written."""

    tokens: list[int] = field(default_factory=list[int])

    def add(self, tokens: Sequence[int]) -> None:
        self.tokens = [*self.tokens, *tokens][-REMEMBERED:]


def write(reader: Reader, vocabulary: Vocabulary, past: Past, wish: Wish) -> Iterator[str]:
    """Pieces of text as they are certain. ``reader`` has read the beginning."""
    rng = np.random.default_rng(wish.seed)
    shown = Shown(vocabulary, wish.stop)
    for _ in range(wish.length):
        token = wish.sampling.choose(expectations(reader, vocabulary), past.tokens, rng)
        past.add([token])
        reader.follow(token)
        yield shown.push(token)
        if shown.stopped:
            return
    yield shown.flush()


def expectations(reader: Reader, vocabulary: Vocabulary) -> np.ndarray:
    """Log probabilities of the next token [tokens]; the unknown one is never written."""
    found = reader.expect().numpy()
    if (unknown := vocabulary.unknown) is not None:
        found = found.copy()
        found[unknown] = -np.inf
    return found


class Shown:
    """Text of tokens as they come: held back are bytes that are no whole letter yet, and what may become a stop."""

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self.vocabulary, self.stop = vocabulary, [word for word in stop if word]
        self.before: list[int] = []  # the tokens of the last whole letters: spaces depend on them
        self.fresh: list[int] = []  # tokens since then
        self.waiting = ""  # text that is not shown yet
        self.stopped = False

    def push(self, token: int) -> str:
        """What can be shown now."""
        self.fresh.append(token)
        known = len(self.vocabulary.decode(self.before))
        text = self.vocabulary.decode([*self.before, *self.fresh])[known:]
        if self.vocabulary.unit == "subwords" and text.endswith("\ufffd") and len(self.fresh) < 4:
            return ""  # a letter has four bytes at most
        self.before, self.fresh = self.fresh, []
        self.waiting += text
        found = [place for word in self.stop if (place := self.waiting.find(word)) >= 0]
        if found:
            self.stopped, piece = True, self.waiting[: min(found)]
            self.waiting = ""
            return piece
        return self.take(len(self.waiting) - self.promising())

    def promising(self) -> int:
        """How many of the last letters could be the beginning of a stop."""
        ends = (size for word in self.stop for size in range(1, len(word)) if self.waiting.endswith(word[:size]))
        return max(ends, default=0)

    def take(self, end: int) -> str:
        piece, self.waiting = self.waiting[:end], self.waiting[end:]
        return piece

    def flush(self) -> str:
        """The rest, when nothing more comes."""
        known = len(self.vocabulary.decode(self.before))
        self.waiting += self.vocabulary.decode([*self.before, *self.fresh])[known:]
        return self.take(len(self.waiting))
