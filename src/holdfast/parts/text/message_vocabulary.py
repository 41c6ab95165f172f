"""What is known about messages before the network learns: words, n-grams and their weights, intents, slots."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ..errors import DataError
from .conversation import Asked, Turn
from .intent_baseline import NaiveBayes, count_words
from .message_features import Grams, Word, counted, letters_of, phrases_and_letters, phrases_of, words_of
from .slots import tag_names, tags_of

IGNORED: Final = -100  # an intent or a tag that nobody said
UNKNOWN: Final = 0  # the number of every word that is not in the vocabulary
FEWEST = 2  # messages in which a word or an n-gram came, to be known
MOST_HEARD: Final = 30  # words of a turn before a message that are read, its last ones
MOST_LETTERS: Final = 2000  # of it at most: what is kept of a conversation does not grow with what is said
OWN: Final = 0  # whose a word is: of the message itself; of the bot before it; of the user before it
ROLES: Final = {"bot": 1, "user": 2}
KINDS: Final = {"bot": "bB", "user": "uU"}  # of hashed words and pairs in turns before a message


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

    words: tuple[str, ...]  # those of turns before it, and at least one of its own
    roles: np.ndarray  # [words] int64: whose each is
    grams: np.ndarray  # [grams] int64: places among all n-grams: phrases, letters, phrases heard before
    weights: np.ndarray  # [grams] float32
    intent: int  # IGNORED where nobody said
    tags: np.ndarray  # [words] int64, IGNORED where nobody said and in turns before


@dataclass(frozen=True)
class MessageFacts:
    """Facts found in the users' messages of the training data."""

    words: tuple[str, ...]  # known ones, the most frequent first; their numbers begin with 1
    phrases: GramTable  # words and pairs of them
    letters: GramTable
    context: int  # turns before a message by which it is understood
    heard: GramTable  # words and pairs of them in those
    intents: tuple[str, ...]  # without the one for out-of-scope messages
    outside: str | None  # the name of the intent that out-of-scope messages carry, if there were any
    slots: tuple[str, ...]
    threshold: float  # a message whose out_of_scope.fit_scores is below is out of scope
    baseline: NaiveBayes
    temperature: float = 1.0  # divides the logits of intents: makes the confidence honest, found on validation messages

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

    def message(self, asked: Asked) -> Message:
        """A user's turn as the network reads it. An intent or slots that training did not have are left out."""
        turn, split = asked.turn, words_of(asked.turn.text)
        own = tuple(word.text for word in split) or ("",)
        before = [(one.speaker, heard_words(one)) for one in asked.before[max(0, len(asked.before) - self.context) :]]
        intent = IGNORED if turn.intent is None else self.class_numbers.get(turn.intent, IGNORED)
        words = (*(word for _, said in before for word in said), *own)
        roles = np.repeat([*(ROLES[speaker] for speaker, _ in before), OWN], [*(len(w) for _, w in before), len(own)])
        tags = np.full(len(words), IGNORED, dtype=np.int64)
        if turn.slots is not None and self.slots and split:
            tags[len(words) - len(own) :] = self.tags(turn, split)
        return Message(words, roles, *self.grams(own, before), intent, tags)

    def grams(self, own: Sequence[str], before: Sequence[tuple[str, list[str]]]) -> tuple[np.ndarray, np.ndarray]:
        """Places and weights of a message's n-grams, as Message has them."""
        phrases, letters = phrases_and_letters(own)
        weighed = [self.phrases.weigh(phrases), self.letters.weigh(letters)]
        if self.context:
            codes = [code for speaker, words in before for code in phrases_of(words, KINDS[speaker])]
            weighed.append(self.heard.weigh(counted(codes)))
        begins = (0, len(self.phrases), len(self.phrases) + len(self.letters))
        grams = np.concatenate([places + begin for (places, _), begin in zip(weighed, begins, strict=False)])
        return grams, np.concatenate([weights for _, weights in weighed]) * np.float32(0.5**0.5)

    def tags(self, turn: Turn, split: Sequence[Word]) -> np.ndarray:
        """[words] int64 of a turn with slots."""
        known = [slot for slot in turn.slots or () if slot.name in self.slots]
        return np.array([self.tag_numbers[tag] for tag in tags_of(turn.text, split, known)], dtype=np.int64)


def heard_words(turn: Turn) -> list[str]:
    """What is read of a turn before a message: the end of what was said."""
    return [word.text for word in words_of(turn.text[-MOST_LETTERS:])[-MOST_HEARD:]]


def end_of(text: str) -> str:
    """Of a text what heard_words reads."""
    text = text[-MOST_LETTERS:]
    words = words_of(text)
    return text if len(words) <= MOST_HEARD else text[words[-MOST_HEARD].start :]


def learn_messages(
    messages: Sequence[Asked], outside: str | None = "oos", fewest: int = FEWEST, most_words: int = 50_000
) -> MessageFacts:
    """Facts found in users' messages, and in what was said before them where that is given.

    Args:
        messages: with intents, slots, both or, for some, neither.
        outside: the intent that out-of-scope messages carry, where there are any.
        fewest: messages in which a word or an n-gram has to come.
        most_words: known words at most.

    Raises:
        DataError: no user's turn has an intent or slots.
    """
    said = [one.turn for one in messages]
    intents = {turn.intent for turn in said if turn.intent is not None}
    slots = {slot.name for turn in said for slot in turn.slots or ()}
    if not (intents - {outside} or slots):
        raise DataError("no message of a user has an intent or slots to learn from")
    split = [[word.text for word in words_of(turn.text)] for turn in said]
    grams = [phrases_and_letters(words) for words in split]
    before = [[(one.speaker, heard_words(one)) for one in asked.before] for asked in messages]
    known = Counter(word for words in split for word in set(words))
    known.update(word for turns in before for speaker, words in turns if speaker == "bot" for word in set(words))
    heard = [counted([c for speaker, words in turns for c in phrases_of(words, KINDS[speaker])]) for turns in before]
    words = sorted((word for word, count in known.items() if count >= fewest), key=lambda word: (-known[word], word))
    inside = tuple(sorted(intents - {outside}))
    named = [*inside, *([outside] if outside in intents else [])]
    labelled = [(words, named.index(turn.intent)) for words, turn in zip(split, said, strict=True) if turn.intent]
    return MessageFacts(
        words=tuple(words[:most_words]),
        phrases=learn_grams([pair[0].codes for pair in grams], fewest),
        letters=learn_grams([pair[1].codes for pair in grams], fewest),
        context=max((len(turns) for turns in before), default=0),
        heard=learn_grams([one.codes for one in heard], fewest),
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
