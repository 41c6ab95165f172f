"""Word-by-word translation, learned by IBM model 1: the baseline of a translator.

Brown, Della Pietra, Della Pietra & Mercer, "The Mathematics of Statistical Machine Translation", Computational
Linguistics 19(2), 1993: every word of the target comes from one word of the source, or from none, and expectation
maximisation finds how likely each pair is.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

WORDS = re.compile(r"\w+|[^\w\s]")
ROUNDS: Final = 5
MOST_PAIRS = 40_000  # of sentences: more change few of the likeliest translations
MOST_WORDS = 60  # of a sentence; longer ones are left out


@dataclass(frozen=True)
class Lexicon:
    """The likeliest translation of every word that was met."""

    words: tuple[str, ...]  # of the source language, sorted
    translations: tuple[str, ...]

    @functools.cached_property
    def table(self) -> dict[str, str]:
        return dict(zip(self.words, self.translations, strict=True))

    @functools.cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.words)

    def translate(self, text: str) -> str:
        """Word by word, in the source's order; what was never met stays as it is."""

        def one(match: re.Match[str]) -> str:
            word = match[0]
            return self.table.get(word, self.table.get(word.lower(), word))

        return WORDS.sub(one, text)


class Meetings(NamedTuple):
    """Every word of every target sentence with every word of its source, and with none."""

    source: np.ndarray  # [meetings] int64, 0 for none
    target: np.ndarray  # [meetings] int64
    place: np.ndarray  # [meetings] int64: which word of which target sentence


def learn_lexicon(pairs: Sequence[tuple[str, str]]) -> Lexicon:
    """From pairs of sentences; of very many, some at even distances."""
    chosen = pairs[:: max(1, -(-len(pairs) // MOST_PAIRS))]
    split = [(WORDS.findall(source), WORDS.findall(target)) for source, target in chosen]
    split = [(a, b) for a, b in split if a and b and max(len(a), len(b)) <= MOST_WORDS]
    sources, targets = (numbered(side) for side in zip(*split, strict=True)) if split else ([], [])
    source_words, target_words = (sorted({w for pair in split for w in pair[side]}) for side in (0, 1))
    if not split:
        return Lexicon((), ())
    source, target, chance = maximise(meetings([s + 1 for s in sources], targets), len(target_words))
    order = np.lexsort((-chance, source))
    source, target = source[order], target[order]
    first = np.flatnonzero(np.diff(source, prepend=-1))  # the likeliest of each word
    best = {int(s): int(t) for s, t in zip(source[first], target[first], strict=True)}
    translations = tuple(target_words[best[number + 1]] for number in range(len(source_words)))
    return Lexicon(tuple(source_words), translations)


def numbered(sentences: Iterable[list[str]]) -> list[np.ndarray]:
    """Words as their places in the sorted list of all."""
    sentences = list(sentences)
    places = {word: place for place, word in enumerate(sorted({word for words in sentences for word in words}))}
    return [np.array([places[word] for word in words], dtype=np.int64) for words in sentences]


def meetings(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Meetings:
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for source, target in zip(sources, targets, strict=True):
        with_none = np.append(source, 0)
        left.append(np.tile(with_none, len(target)))
        right.append(np.repeat(target, len(with_none)))
        sizes.append(np.full(len(target), len(with_none)))
    counts = np.concatenate(sizes)
    place = np.repeat(np.arange(len(counts)), counts)
    return Meetings(np.concatenate(left), np.concatenate(right), place)


def maximise(met: Meetings, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of words (source, target) that met, and how likely the target is, given the source."""
    codes, pair = np.unique(met.source * width + met.target, return_inverse=True)
    source, target = codes // width, codes % width
    chance = np.ones(len(codes))
    for _ in range(ROUNDS):
        share = chance[pair]
        share /= np.bincount(met.place, share)[met.place]  # expectation: who of the source it comes from
        counts = np.bincount(pair, share, minlength=len(codes))
        chance = counts / np.maximum(np.bincount(source, counts), 1e-300)[source]  # maximisation
    return source, target, chance
