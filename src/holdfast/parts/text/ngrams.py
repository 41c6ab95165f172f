"""Counted tokens and pairs of them: the baselines of a language model."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MOST_PAIRS = 300_000  # the most frequent ones are kept


@dataclass(frozen=True)
class Bigrams:
    """How often each token followed each other one."""

    first: np.ndarray  # [pairs] int64, rising
    second: np.ndarray  # [pairs] int64, rising within equal first ones
    counts: np.ndarray  # [pairs] int64
    kinds: np.ndarray  # [tokens] int64: how many different tokens followed each
    totals: np.ndarray  # [tokens] int64: how many tokens followed each

    def surprise(self, before: np.ndarray, tokens: np.ndarray, unigrams: np.ndarray) -> np.ndarray:
        """Negative log probability in nats of tokens after the ones before, [tokens].

        Witten & Bell, IEEE Transactions on Information Theory 37(4), 1991: what a token's followers leave over, by how
        many different ones there are, goes to the unigrams' probabilities [vocabulary].
        """
        width = len(self.totals)
        codes, wanted = self.first * width + self.second, before * width + tokens
        place = np.minimum(np.searchsorted(codes, wanted), max(len(codes) - 1, 0))
        met = codes[place] == wanted if len(codes) else np.zeros(len(wanted), dtype=bool)
        counted = np.where(met, self.counts[place] if len(codes) else 0, 0)
        kinds, totals = self.kinds[before], self.totals[before]
        weight = np.where(totals > 0, kinds, 1)
        return -np.log((counted + weight * unigrams[tokens]) / (totals + weight))


def count_bigrams(pieces: Iterable[np.ndarray], vocabulary: int, start: int) -> Bigrams:
    """Pairs in a text whose tokens come in pieces."""
    codes, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    last = start
    for piece in pieces:
        if not len(piece):
            continue
        before = np.concatenate([[last], piece[:-1]])
        last = int(piece[-1])
        fresh, times = np.unique(before * vocabulary + piece, return_counts=True)
        codes, place = np.unique(np.concatenate([codes, fresh]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, times]), minlength=len(codes)).astype(np.int64)
    first = codes // vocabulary
    totals = np.bincount(first, counts, minlength=vocabulary).astype(np.int64)
    kinds = np.bincount(first, minlength=vocabulary)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_PAIRS])
    return Bigrams(first[kept], codes[kept] % vocabulary, counts[kept], kinds, totals)


def unigrams_of(counts: np.ndarray) -> np.ndarray:
    """Probabilities of tokens [vocabulary] from their counts, one added to each."""
    return (counts + 1) / (counts.sum() + len(counts))
