"""What is known about messages before the network learns: words, n-grams and their weights, intents, slots."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..errors import DataError
from .conversation import Turn
from .intent_baseline import NaiveBayes, count_words
from .message_features import Grams, letters_of, phrases_and_letters, words_of
from .slots import tag_names, tags_of

IGNORED: Final = -100  # an intent or a tag that nobody said
UNKNOWN: Final = 0  # the number of every word that is not in the vocabulary
FEWEST = 2  # messages in which a word or an n-gram came, to be known


@dataclass(frozen=True)
class GramTable:
    """Hashed n-grams that are known, and how much each says."""

    codes: np.ndarray  # [grams] int64, rising
    idf: np.ndarray  # [grams] float32: 1 + log((1 + messages) / (1 + messages with it))

    def __len__(self) -> int:
        return len(self.codes)

    def places(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where hashes [n] stand in the table: places [known] int64, and which of the n are known [n] bool."""
        if not len(self.codes):
            return np.empty(0, dtype=np.int64), np.zeros(len(codes), dtype=bool)
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        known = self.codes[places] == codes
        return places[known], known

    def weigh(self, grams: Grams) -> tuple[np.ndarray, np.ndarray]:
        """Places [known] int64 and weights [known] float32: (1 + log count) * idf, as a vector of length one.

        Salton & Buckley, "Term-weighting approaches in automatic text retrieval", 1988.
        """
        places, known = self.places(grams.codes)
        weights = (1 + np.log(grams.counts[known])) * self.idf[places]
        length = float(np.sqrt((weights * weights).sum()))
        return places, (weights / max(length, 1e-12)).astype(np.float32)


class Message(NamedTuple):
    """A message as the network reads it; what is asked of it may be unknown."""

    words: tuple[str, ...]  # at least one
    grams: np.ndarray  # [grams] int64: places among all n-grams, phrases before letters
    weights: np.ndarray  # [grams] float32
    intent: int  # IGNORED where nobody said
    tags: np.ndarray  # [words] int64, IGNORED where nobody said


@dataclass(frozen=True)
class MessageFacts:
    """Facts found in the users' messages of the training data."""

    words: tuple[str, ...]  # known ones, the most frequent first; their numbers begin with 1
    phrases: GramTable  # words and pairs of them
    letters: GramTable
    intents: tuple[str, ...]  # without the one for out-of-scope messages
    outside: str | None  # the name of the intent that out-of-scope messages carry, if there were any
    slots: tuple[str, ...]
    threshold: float  # a message whose out_of_scope.fit_scores is below is out of scope
    baseline: NaiveBayes

    @property
    def classes(self) -> int:
        """What the network chooses from: the intents, then what is out of scope where that could be learned."""
        return len(self.intents) + (self.outside is not None)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        return {word: place + 1 for place, word in enumerate(self.words)}

    @functools.cached_property
    def class_numbers(self) -> dict[str, int]:
        names = [*self.intents, *([] if self.outside is None else [self.outside])]
        return {name: number for number, name in enumerate(names)}

    @functools.cached_property
    def tag_numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(tag_names(self.slots))}

    @functools.cached_property
    def known_spellings(self) -> dict[str, np.ndarray]:
        """Filled as words are asked for; only with words of the vocabulary, so that it cannot grow for ever."""
        return {}

    def spelling(self, word: str) -> np.ndarray:
        """A word's n-grams of letters that are known: places [letters] int64 in the table of letters."""
        found = self.known_spellings.get(word)
        if found is None:
            found, _ = self.letters.places(np.array(letters_of(word), dtype=np.int64))
            if word in self.numbers:
                self.known_spellings[word] = found
        return found

    def message(self, turn: Turn) -> Message:
        """A user's turn as the network reads it. An intent or slots that training did not have are left out."""
        split = words_of(turn.text)
        words = tuple(word.text for word in split) or ("",)
        phrases, letters = phrases_and_letters(words)
        left, right = self.phrases.weigh(phrases), self.letters.weigh(letters)
        grams = np.concatenate([left[0], right[0] + len(self.phrases)])
        weights = np.concatenate([left[1], right[1]]) * np.float32(0.5**0.5)
        intent = IGNORED if turn.intent is None else self.class_numbers.get(turn.intent, IGNORED)
        tags = np.full(len(words), IGNORED, dtype=np.int64)
        if turn.slots is not None and self.slots and split:
            known = [slot for slot in turn.slots if slot.name in self.slots]
            tags = np.array([self.tag_numbers[tag] for tag in tags_of(turn.text, split, known)], dtype=np.int64)
        return Message(words, grams, weights, intent, tags)


def learn_messages(
    turns: Sequence[Turn], outside: str | None = "oos", fewest: int = FEWEST, most_words: int = 50_000
) -> MessageFacts:
    """Facts found in the users' turns; the bot's are passed over.

    Args:
        turns: with intents, slots, both or, for some, neither.
        outside: the intent that out-of-scope messages carry, where there are any.
        fewest: messages in which a word or an n-gram has to come.
        most_words: known words at most.

    Raises:
        DataError: no user's turn has an intent or slots.
    """
    said = [turn for turn in turns if turn.speaker == "user"]
    intents = {turn.intent for turn in said if turn.intent is not None}
    slots = {slot.name for turn in said for slot in turn.slots or ()}
    if not (intents - {outside} or slots):
        raise DataError("no message of a user has an intent or slots to learn from")
    split = [[word.text for word in words_of(turn.text)] for turn in said]
    grams = [phrases_and_letters(words) for words in split]
    known = Counter(word for words in split for word in set(words))
    words = sorted((word for word, count in known.items() if count >= fewest), key=lambda word: (-known[word], word))
    inside = tuple(sorted(intents - {outside}))
    named = [*inside, *([outside] if outside in intents else [])]
    labelled = [(words, named.index(turn.intent)) for words, turn in zip(split, said, strict=True) if turn.intent]
    return MessageFacts(
        words=tuple(words[:most_words]),
        phrases=learn_grams([pair[0].codes for pair in grams], fewest),
        letters=learn_grams([pair[1].codes for pair in grams], fewest),
        intents=inside,
        outside=outside if outside in intents else None,
        slots=tuple(sorted(slots)),
        threshold=0.0 if outside in intents else float("-inf"),  # more likely an intent than none; nothing is rejected
        baseline=count_words(labelled, len(named)),
    )


def learn_grams(messages: Sequence[np.ndarray], fewest: int) -> GramTable:
    """The table of messages' different hashes, each [grams] int64."""
    codes, counts = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *messages]), return_counts=True)
    kept = counts >= fewest
    idf = 1 + np.log((1 + len(messages)) / (1 + counts[kept]))
    return GramTable(codes[kept], idf.astype(np.float32))
