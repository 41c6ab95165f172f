"""What a message is made of: words with their places in the text, and hashed n-grams of words and of letters.

Hashing spares a list of all n-grams (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML
2009). The hash is CRC-32, the same in every process and on every machine, which Python's own is not.
"""

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WORDS = re.compile(r"\w+|['’]\w+|[^\w\s]")  # "Rosie's" is two words, so that a slot's value can end before the 's
SHORTEST, LONGEST = 3, 5  # letters of an n-gram, the word's borders counted
REMEMBERED = 1 << 16  # words whose letters are not hashed again


class Word(NamedTuple):
    """A word, and where it stands: text[start:end]."""

    text: str  # as networks read it: lower case, in one of Unicode's spellings
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """Words and signs, in order; white space belongs to none."""
    return [Word(spelled(found[0]), found.start(), found.end()) for found in WORDS.finditer(text)]


def spelled(word: str) -> str:
    """Lower case, compatible letters alike, one kind of apostrophe."""
    return unicodedata.normalize("NFKC", word).lower().replace("’", "'")


@functools.lru_cache(maxsize=REMEMBERED)
def letters_of(word: str) -> tuple[int, ...]:
    """Hashed n-grams of a word's letters between its borders, each as often as it comes: "<cat>" has <ca, cat, at>...

    Bojanowski et al., "Enriching Word Vectors with Subword Information", TACL 5, 2017.
    """
    framed = f"<{word}>"
    lengths = range(SHORTEST, min(LONGEST, len(framed)) + 1)
    return tuple(
        hashed("c", framed[begin : begin + length]) for length in lengths for begin in range(len(framed) - length + 1)
    )


@functools.lru_cache(maxsize=REMEMBERED)
def hashed(kind: str, gram: str) -> int:
    """0 <= hash < 2**32 of an n-gram of one kind (a single letter)."""
    return zlib.crc32(f"{kind}{gram}".encode("utf-8", "surrogatepass"))


def phrases_of(words: Sequence[str], kinds: str = "wp") -> list[int]:
    """Hashed words and pairs of neighbours, each of a kind; the message's ends are neighbours, too."""
    pairs, (single, pair) = zip(["<", *words], [*words, ">"], strict=True), kinds
    return [*(hashed(single, word) for word in words), *(hashed(pair, f"{a} {b}") for a, b in pairs)]


class Grams(NamedTuple):
    """Different hashed n-grams of a message, and how often each comes in it."""

    codes: np.ndarray  # [grams] int64, rising
    counts: np.ndarray  # [grams] int64


def counted(codes: Sequence[int]) -> Grams:
    """Hashes with their counts."""
    found, counts = np.unique(np.array(codes, dtype=np.int64), return_counts=True)
    return Grams(found, counts)


def phrases_and_letters(words: Sequence[str]) -> tuple[Grams, Grams]:
    """Both kinds of n-grams of a message's words."""
    return counted(phrases_of(words)), counted([code for word in words for code in letters_of(word)])
