"""Lines in, translations out: what a translation is, and how a network writes it."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast.engine.stream import Precision

from ..errors import ResourceError
from .beam import Begin, Found, Search, Stepper, search_all
from .tokens import Vocabulary
from .translation_ensemble import TranslationEnsemble
from .translation_network import TranslationNetwork

SENTENCES = 32  # searched for together at most
ROOM = 4096  # source tokens of them, padding counted, at most
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # bytes can spell them, and a line must stay one
CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)  # a word between its punctuation


class Line(NamedTuple):
    """A text as tokens."""

    tokens: np.ndarray  # [tokens] int64
    pieces: tuple[str, ...]  # the same as text; a space stands before a word's first piece

    def words(self) -> list[list[int]]:
        """The places of each word's pieces."""
        starts = [place for place, piece in enumerate(self.pieces) if place == 0 or piece[:1].isspace()]
        return [list(range(a, b)) for a, b in itertools.pairwise([*starts, len(self.pieces)])]


@dataclass(frozen=True)
class Hypothesis:
    """One way to translate a line."""

    text: str
    score: float  # log probability over the length penalty, plus the coverage penalty
    confidence: float  # mean log probability of its tokens, the end among them
    pieces: tuple[str, ...]
    attention: np.ndarray  # [pieces, source pieces] float32: where was looked for each
    links: tuple[tuple[int, int], ...]  # (word of the source, word of the translation), each of the latter once


@dataclass(frozen=True)
class Translation:
    """The answer to one line."""

    source: str
    pieces: tuple[str, ...]  # of the source
    hypotheses: tuple[Hypothesis, ...]  # the best first, no text twice

    @property
    def best(self) -> Hypothesis:
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        return self.best.text


def spaced(text: str) -> str:
    """A line as it is cut: a space before every word, so that the first one has the tokens of any other."""
    return "".join(f" {word}" for word in text.split())


def line_of(vocabulary: Vocabulary, text: str) -> Line:
    """A line as tokens."""
    tokens = vocabulary.encode(spaced(text))
    return Line(tokens, tuple(vocabulary.spelled(tokens)))


class Translating:
    """A network at work. What it packs for decoding it keeps: lines may come one by one.

    Args:
        net: trained.
        vocabulary: its tokens; `start` begins and ends every sentence.
        search: how translations are searched for.
        known: words that were learned from; others, and those with digits, are copied. None: nothing is.
        precision: of the decoder's weights.
    """

    def __init__(
        self,
        net: TranslationNetwork | TranslationEnsemble,
        vocabulary: Vocabulary,
        search: Search,
        known: frozenset[str] | None = None,
        precision: Precision = "highest",
    ) -> None:
        self.net, self.vocabulary, self.search, self.known = net, vocabulary, search, known
        self.precision: Precision = precision
        self.step: Stepper | None = None

    @torch.inference_mode()
    def translate(self, texts: Sequence[str]) -> list[Translation]:
        """One answer per text, in order; nothing for a text of white space."""
        lines = [line_of(self.vocabulary, text) for text in texts]
        nothing = Hypothesis("", 0.0, 0.0, (), np.zeros((0, 0), dtype=np.float32), ())
        answers = [Translation(text, (), (nothing,)) for text in texts]
        filled = [number for number, line in enumerate(lines) if len(line.tokens)]
        for group in grouped(sorted(filled, key=lambda number: len(lines[number].tokens)), lines):
            found = self.search_for([lines[number] for number in group])
            for number, ways in zip(group, found, strict=True):
                answers[number] = self.answer(texts[number], lines[number], ways)
        return answers

    def search_for(self, lines: Sequence[Line]) -> list[list[Found]]:
        end = self.vocabulary.start
        rows = [torch.from_numpy(np.append(line.tokens, end)) for line in lines]
        lengths = torch.tensor([len(row) for row in rows])
        encoded = self.net.encode(torch.nn.utils.rnn.pad_sequence(rows), lengths)
        keys, values, _ = encoded.source
        begins = [
            Begin(
                keys[row, :length], values[row, :length], list(zip(encoded.h[:, row], encoded.c[:, row], strict=True))
            )
            for row, length in enumerate(lengths.tolist())
        ]
        return search_all(self.stepper(len(lines) * self.search.beam), begins, end, self.search)

    def stepper(self, slots: int) -> Stepper:
        """The decoder, with room for so many hypotheses."""
        if self.step is None or self.step.slots < slots:
            try:
                self.step = self.net.step(slots, self.precision)
            except RuntimeError as error:
                raise ResourceError(f"a decoder cannot be made here: {error}", hint="see holdfast doctor") from None
        return self.step

    def answer(self, text: str, line: Line, ways: Sequence[Found]) -> Translation:
        hypotheses = [self.hypothesis(text, line, found) for found in ways]
        distinct = {one.text: one for one in reversed(hypotheses)}  # of equal texts the best remains
        ranked = sorted(distinct.values(), key=lambda one: -one.score)
        return Translation(text, line.pieces, tuple(ranked))

    def hypothesis(self, text: str, line: Line, found: Found) -> Hypothesis:
        tokens = np.array(found.tokens, dtype=np.int64)
        written = Line(tokens, tuple(self.vocabulary.spelled(tokens)))
        attention = found.alpha[: len(tokens), : len(line.tokens)]  # neither for the end nor at it
        masses = between_words(attention, written.words(), line.words())
        said = " ".join(CONTROL.sub(" ", self.vocabulary.decode(tokens)).split())
        if self.known is not None:
            said = copied(said.split(" "), text.split(), masses, self.known)
        links = tuple((int(row.argmax()), place) for place, row in enumerate(masses)) if masses.size else ()
        confidence = found.log_probability / len(found.alpha)
        return Hypothesis(said, found.score, confidence, written.pieces, attention, links)


def grouped(order: Sequence[int], lines: Sequence[Line]) -> Iterator[list[int]]:
    """Lines of rising length, as many at once as there is room for."""
    group: list[int] = []
    for number in order:
        if group and (len(group) == SENTENCES or (len(group) + 1) * len(lines[number].tokens) > ROOM):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def between_words(attention: np.ndarray, written: Sequence[list[int]], read: Sequence[list[int]]) -> np.ndarray:
    """[words written, words read]: attention of all their pieces."""
    if not written or not read:
        return np.zeros((len(written), len(read)))
    columns = np.stack([attention[:, places].sum(axis=1) for places in read], axis=1)
    return np.stack([columns[places].sum(axis=0) for places in written])


def copied(written: list[str], read: Sequence[str], masses: np.ndarray, known: frozenset[str]) -> str:
    """The translation with numbers and unknown words of the source in the place of what was written for them.

    For each such word of the source that is not in the translation already: the written word that looked at it most,
    if it looked at no other word more.
    """
    if masses.shape != (len(written), len(read)):  # white space that is no word's border
        return " ".join(written)
    result = list(written)
    for place, word in enumerate(read):
        core = CORE.sub(r"\2", word)
        foreign = any(letter.isdigit() for letter in core) or not known_parts(core, known)
        if not core or not foreign or any(core in one for one in written) or not len(written):
            continue
        chosen = int(masses[:, place].argmax())
        if int(masses[chosen].argmax()) == place:
            before, _, after = CORE.sub(r"\1 \2 \3", written[chosen]).split(" ")
            result[chosen] = f"{before}{core}{after}"
    return " ".join(result)


def known_parts(word: str, known: frozenset[str]) -> bool:
    """Whether every part of a word that punctuation separates was learned from, in capitals or not."""
    parts = re.findall(r"\w+", word)
    return all(part in known or part.lower() in known for part in parts)


def translation_rows(outputs: Sequence[Translation]) -> list[dict[str, Any]]:
    """A row per hypothesis; links as pairs of word numbers, source first, as aligners write them."""
    return [
        {
            "text": way.text,
            "source": one.source,
            "rank": rank,
            "score": round(way.score, 5),
            "confidence": round(way.confidence, 5),
            "alignment": " ".join(f"{read}-{written}" for read, written in way.links),
        }
        for one in outputs
        for rank, way in enumerate(one.hypotheses, start=1)
    ]


def write_lines(outputs: Sequence[Translation], path: Path) -> None:
    """The best translation of each line, a line each."""
    path.write_text("".join(f"{one.text}\n" for one in outputs), encoding="utf-8")
