"""Tokens: text <-> numbers, by characters, words or subwords."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np

from ..errors import DataError, MissingExtraError

Unit = Literal["characters", "words", "subwords"]
UNKNOWN = "<unk>"
LINE = "<eos>"  # the end of a line, where units are words
BYTE_LINE = "\u010a"  # how byte-level tokenizers write the byte of a line's end


def no_model() -> np.ndarray:
    return np.empty(0, dtype=np.uint8)


@dataclass(frozen=True)
class Vocabulary:
    """Which number stands for which token.

    characters  every letter is a token; one that was never met is the unknown one
    words       what stands between white space, and the end of every line: how WikiText and PTB are counted
    subwords    byte pairs (Sennrich et al., ACL 2016) over bytes, so that nothing is unknown
    """

    unit: Unit
    pieces: tuple[str, ...]  # the tokens; the most frequent first, but for subwords
    counts: np.ndarray  # [tokens] int64, how often each came in training
    model: np.ndarray = field(default_factory=no_model)  # [bytes] uint8: the tokenizers library's JSON, of subwords

    def __len__(self) -> int:
        return len(self.pieces)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @functools.cached_property
    def subwords(self) -> Any:
        return tokenizers().Tokenizer.from_str(self.model.tobytes().decode())

    @property
    def unknown(self) -> int | None:
        """The number of what was never met; None of subwords, which know everything."""
        return None if self.unit == "subwords" else self.numbers[UNKNOWN]

    @property
    def start(self) -> int:
        """The token that stands before a text: the end of a line, or where none was met the most frequent token."""
        line = {"characters": "\n", "words": LINE, "subwords": BYTE_LINE}[self.unit]
        return self.numbers.get(line, int(self.counts.argmax()))

    def encode(self, text: str) -> np.ndarray:
        """[tokens] int64."""
        if self.unit == "subwords":
            return np.array(self.subwords.encode(text).ids, dtype=np.int64)
        unknown = self.numbers[UNKNOWN]
        numbers = (self.numbers.get(piece, unknown) for piece in units(text, self.unit))
        return np.fromiter(numbers, dtype=np.int64)

    def spelled(self, tokens: np.ndarray) -> list[str]:
        """Each token as text, with the white space that stands between them: put together they are the whole."""
        if self.unit == "subwords":
            return [piece.replace("\ufffd", "·") for piece in map(self.subwords.decode, tokens[:, None].tolist())]
        pieces = [self.pieces[int(token)] for token in tokens]
        if self.unit == "characters":
            return pieces
        return ["\n" if piece == LINE else f"{piece} " for piece in pieces]

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens begin, and which end, with a letter or digit that sticks to its neighbour, [tokens] bool each:
        between two that stick together a word goes on. Of words none do, white space being between them."""
        if self.unit == "words":
            nowhere = np.zeros(len(self), dtype=bool)
            return nowhere, nowhere
        begins, ends = (np.array([sticks(piece[at], self.unit) for piece in self.pieces]) for at in (0, -1))
        return begins, ends

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text again."""
        if self.unit == "subwords":
            return self.subwords.decode([int(token) for token in tokens], skip_special_tokens=False)
        pieces = [self.pieces[int(token)] for token in tokens]
        if self.unit == "characters":
            return "".join("\ufffd" if piece == UNKNOWN else piece for piece in pieces)
        return re.sub(r" ?\n ?", "\n", " ".join("\n" if piece == LINE else piece for piece in pieces))


def sticks(letter: str, unit: Unit) -> bool:
    """Whether a letter of a token belongs to a word, in subwords as byte-level tokenizers write it."""
    if unit == "subwords" and not letter.isascii():  # a byte of some letter, but for controls and the blank
        return not "\u0100" <= letter <= "\u0121"
    return letter.isalnum()


def units(text: str, unit: Unit) -> Iterable[str]:
    """A text cut into characters or words."""
    if unit == "characters":
        return text
    return (word for line in text.splitlines(keepends=True) for word in words_of(line))


def words_of(line: str) -> list[str]:
    words = line.split()
    return [*words, LINE] if line.endswith(("\n", "\r")) else words


def learn(texts: Iterable[str], unit: Unit, largest: int) -> Vocabulary:
    """The vocabulary of some texts, given in pieces: at most ``largest`` tokens, the most frequent ones.

    Raises DataError where there is no token.
    """
    if unit == "subwords":
        return learn_subwords(list(texts), largest)
    seen: Counter[str] = Counter()
    feed = Feed(unit)
    for text in texts:
        seen.update(units(feed.push(text), unit))
    seen.update(units(feed.flush(), unit))
    if not seen:
        raise DataError("the texts hold no words" if unit == "words" else "the texts are empty")
    unknown = seen.pop(UNKNOWN, 0)
    kept = [(piece, count) for piece, count in sorted(seen.items(), key=lambda item: (-item[1], item[0]))]
    unknown += sum(count for _, count in kept[largest - 1 :])
    table = [*kept[: largest - 1], (UNKNOWN, unknown)]
    table.sort(key=lambda item: (-item[1], item[0]))
    pieces, counts = zip(*table, strict=True)
    return Vocabulary(unit, pieces, np.array(counts, dtype=np.int64))


def learn_subwords(texts: list[str], largest: int) -> Vocabulary:
    """Byte pairs learned by the tokenizers library: 256 bytes and the most frequent pairs of what is there already."""
    library = tokenizers()
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=max(largest, 256),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    saved = np.frombuffer(model.to_str().encode(), dtype=np.uint8).copy()  # torch wants to be able to write
    numbers: dict[str, int] = model.get_vocab()
    counts = np.bincount([i for text in texts for i in model.encode(text).ids], minlength=len(numbers))
    if not counts.sum():
        raise DataError("the texts are empty")
    return Vocabulary("subwords", tuple(sorted(numbers, key=lambda piece: numbers[piece])), counts, saved)


def tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers", "text", "subwords") from None
    return tokenizers


@final
class Feed:
    """Holds back the end of a text that is still coming, where what follows could change its tokens."""

    def __init__(self, unit: Unit, held: str = "") -> None:
        self.unit, self.held = unit, held

    def push(self, text: str) -> str:
        """The part whose tokens are certain: up to the last white space, which a word that follows may take along."""
        if self.unit == "characters":
            return text
        text = self.held + text
        border = max((match.start() for match in re.finditer(r"\s+", text)), default=0)
        if self.unit == "words":  # white space ends a word, and a line's end is a token at once
            border = max((match.end() for match in re.finditer(r"\s", text)), default=0)
            border -= text[:border].endswith("\r")  # perhaps a \n follows
        self.held = text[border:]
        return text[:border]

    def flush(self) -> str:
        rest, self.held = self.held, ""
        return rest


def encoded(vocabulary: Vocabulary, pieces: Iterable[str]) -> Iterator[np.ndarray]:
    """The tokens of a text that comes in pieces, the same wherever it is cut."""
    feed = Feed(vocabulary.unit)
    for piece in pieces:
        yield vocabulary.encode(feed.push(piece))
    yield vocabulary.encode(feed.flush())
