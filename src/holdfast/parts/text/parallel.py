"""Pairs of sentences for training: held out without leaking, as tokens, as references."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bpe_dropout import Cuts, cut_words, words_in
from .pairs import Pair
from .tokens import Vocabulary
from .translating import spaced

Sentences = list[tuple[np.ndarray, np.ndarray]]  # tokens of a source and of its translation, int64


@dataclass(frozen=True)
class Parallel:
    """Pairs as tokens; with cuts also as words, which every epoch cuts anew."""

    pairs: Sentences
    words: Sentences  # empty without cuts
    cuts: Cuts | None

    def __len__(self) -> int:
        return len(self.pairs)

    def no_longer_than(self, most: int) -> "Parallel":
        """The pairs of at most so many tokens on either side."""
        kept = [n for n, pair in enumerate(self.pairs) if max(map(len, pair)) <= most]
        words = [self.words[n] for n in kept] if self.cuts is not None else []
        return Parallel([self.pairs[n] for n in kept], words, self.cuts)

    def sentences(self, rng: np.random.Generator | None) -> Sentences:
        """An epoch's; without dice as they are cut for use."""
        if rng is None or self.cuts is None:
            return self.pairs
        drawn = self.cuts.draw([side for pair in self.words for side in pair], rng)
        return list(zip(drawn[::2], drawn[1::2], strict=True))


def in_numbers(vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], share: float) -> Parallel:
    """Pairs as tokens; a share of merges above 0 prepares other ways to cut them."""
    tokens = [(vocabulary.encode(spaced(a)), vocabulary.encode(spaced(b))) for a, b in pairs]
    if not share:
        return Parallel(tokens, [], None)
    spelled = [[words_in(vocabulary, spaced(text)) for text in pair] for pair in pairs]
    different = sorted({word for pair in spelled for side in pair for word in side})
    cuts = cut_words(vocabulary, different, share, np.random.default_rng(0))
    words = [[np.array([cuts.words[word] for word in side], dtype=np.int64) for side in pair] for pair in spelled]
    return Parallel(tokens, [(a, b) for a, b in words], cuts)


def held_out(pairs: Sequence[Pair], share: float, rng: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
    """(train, validation): a share of the sources, with all their translations.

    What is learned from has neither their sources nor their translations; lines without a translation are left out.
    """
    whole = [pair for pair in pairs if pair.source and pair.target]
    sources = list(dict.fromkeys(pair.source for pair in whole))
    count = min(max(1, round(share * len(sources))), len(sources))
    chosen = {sources[place] for place in rng.permutation(len(sources))[:count]}
    valid = [pair for pair in whole if pair.source in chosen]
    said = {pair.target for pair in valid}
    return [pair for pair in whole if pair.source not in chosen and pair.target not in said], valid


def references_of(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Every source with its translations, in order."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.source and pair.target:
            found.setdefault(pair.source, []).append(pair.target)
    return found
