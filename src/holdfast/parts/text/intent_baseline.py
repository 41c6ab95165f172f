"""Naive Bayes over words: the intent recognition that needs no network, to be printed beside ours.

McCallum & Nigam, "A Comparison of Event Models for Naive Bayes Text Classification", AAAI workshop, 1998: the
multinomial model.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMOOTHING = 0.1  # added to every count of a word in a class


@dataclass(frozen=True)
class NaiveBayes:
    """How often each word came in each class."""

    words: tuple[str, ...]
    cells: np.ndarray  # [met] int64, rising: class * words + word
    counts: np.ndarray  # [met] int64
    messages: np.ndarray  # [classes] int64

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @functools.cached_property
    def log_chances(self) -> np.ndarray:
        """[classes, words] float32: of a word in a message of a class."""
        table = np.zeros(len(self.messages) * len(self.words))
        table[self.cells] = self.counts
        table = table.reshape(len(self.messages), len(self.words)) + SMOOTHING
        return np.log(table / table.sum(axis=1, keepdims=True)).astype(np.float32)

    def probabilities(self, messages: Sequence[Sequence[str]]) -> np.ndarray:
        """Messages as words -> [messages, classes]; words that were never met say nothing."""
        prior = np.log(np.maximum(self.messages, 1e-9) / max(1, self.messages.sum()))
        logits = np.tile(prior, (len(messages), 1))
        for row, words in zip(logits, messages, strict=True):
            row += self.log_chances[:, [self.numbers[word] for word in words if word in self.numbers]].sum(axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return powers / powers.sum(axis=1, keepdims=True)

    def majority(self) -> int:
        """The class of most messages."""
        return int(self.messages.argmax())


def count_words(labelled: Sequence[tuple[Sequence[str], int]], classes: int) -> NaiveBayes:
    """From messages as words, with their classes."""
    words = tuple(sorted({word for message, _ in labelled for word in message}))
    numbers = {word: number for number, word in enumerate(words)}
    met = Counter(label * len(words) + numbers[word] for message, label in labelled for word in message)
    cells = np.array(sorted(met), dtype=np.int64)
    counts = np.array([met[int(cell)] for cell in cells], dtype=np.int64)
    messages = np.bincount([label for _, label in labelled], minlength=classes).astype(np.int64)
    return NaiveBayes(words, cells, counts, messages)
