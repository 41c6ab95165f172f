"""Subwords cut differently in every epoch: BPE-dropout.

Provilkov, Emelianenko & Voita, "BPE-Dropout: Simple and Effective Subword Regularization", ACL 2020: while a word is
put together from its bytes, every merge that could be made is passed over with a small probability. Here each word is
cut some ways in advance, and an epoch draws one for every place where the word stands: all epochs come from the run's
dice, and cost what indexing costs.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .tokens import Vocabulary

WAYS: Final = 12  # of cutting each word


@dataclass(frozen=True)
class Cuts:
    """Words, each cut in several ways."""

    words: dict[str, int]  # in the tokenizer's spelling of bytes
    tokens: np.ndarray  # [all tokens of all ways] int64
    starts: np.ndarray  # [words, WAYS + 1] int64: where each way begins, and the last one ends

    def draw(self, sentences: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Sentences of words [words] -> their tokens, each word cut in one of its ways."""
        words = np.concatenate([*sentences, np.empty(0, dtype=np.int64)])
        way = rng.integers(WAYS, size=len(words))
        begin, end = self.starts[words, way], self.starts[words, way + 1]
        sizes = end - begin
        ends = np.cumsum(sizes)
        within = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
        tokens = self.tokens[np.repeat(begin, sizes) + within]
        last = np.cumsum([len(sentence) for sentence in sentences])
        borders = np.concatenate([[0], ends])[last]
        return np.split(tokens, borders[:-1])


def words_in(vocabulary: Vocabulary, text: str) -> list[str]:
    """The words that a tokenizer puts together, in its spelling of bytes."""
    return [word for word, _ in vocabulary.subwords.pre_tokenizer.pre_tokenize_str(text)]


def cut_words(vocabulary: Vocabulary, words: Sequence[str], share: float, rng: np.random.Generator) -> Cuts:
    """Different words, each cut in WAYS ways with merges passed over with probability ``share``."""
    model = json.loads(vocabulary.model.tobytes())["model"]
    pairs = (tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"])
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    numbers = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    tokens: list[int] = []
    starts = np.zeros((len(words), WAYS + 1), dtype=np.int64)
    for place, word in enumerate(words):
        for way in range(WAYS):
            starts[place, way] = len(tokens)
            tokens += [numbers[piece] for piece in merged(word, ranks, share, rng)]
        starts[place, WAYS] = len(tokens)
    return Cuts({word: place for place, word in enumerate(words)}, np.array(tokens, dtype=np.int64), starts)


def merged(word: str, ranks: dict[tuple[str, str], int], share: float, rng: np.random.Generator) -> list[str]:
    """One word from its bytes, by the first possible merge again and again."""
    pieces = list(word)
    while len(pieces) > 1:
        dice = rng.random(len(pieces) - 1)
        possible = [
            (ranks[pair], place)
            for place, pair in enumerate(itertools.pairwise(pieces))
            if pair in ranks and dice[place] >= share
        ]
        if not possible:
            break
        _, place = min(possible)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces
