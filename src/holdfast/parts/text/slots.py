"""Details that a message names: slot values in a text <-> tags over its words.

Tags are BIO (Ramshaw & Marcus, "Text Chunking using Transformation-Based Learning", 1995): B-time begins a value of the
slot time, I-time goes on with it, O is outside of all.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .conversation import Slot
from .message_features import Word

OUTSIDE = "O"


class Span(NamedTuple):
    """A slot's value over words[begin:end]."""

    name: str
    begin: int
    end: int


def tag_names(slots: Sequence[str]) -> list[str]:
    """O, then B and I of every slot."""
    return [OUTSIDE, *(f"{kind}-{slot}" for slot in slots for kind in "BI")]


def spans_of(text: str, words: Sequence[Word], slots: Sequence[Slot]) -> list[Span]:
    """Where slots' values stand in a text, in order; every place, if one stands there several times.

    Values are searched without regard to case, on borders of words. One that is not in the text is left out; of two
    that overlap the one of more letters stays, of equal ones the first named.
    """
    begins = {word.start: place for place, word in enumerate(words)}
    ends = {word.end: place + 1 for place, word in enumerate(words)}
    found: list[Span] = []
    for name, value in slots:
        for match in re.finditer(re.escape(value.strip()), text, re.IGNORECASE) if value.strip() else ():
            if match.start() in begins and match.end() in ends:
                found.append(Span(name, begins[match.start()], ends[match.end()]))
    found.sort(key=lambda span: words[span.begin].start - words[span.end - 1].end)  # the longest first
    taken = np.zeros(len(words), dtype=bool)
    kept: list[Span] = []
    for span in found:
        if not taken[span.begin : span.end].any():
            taken[span.begin : span.end] = True
            kept.append(span)
    return sorted(kept, key=lambda span: span.begin)


def tags_of(text: str, words: Sequence[Word], slots: Sequence[Slot]) -> list[str]:
    """The tags of a text's words."""
    tags = [OUTSIDE] * len(words)
    for name, begin, end in spans_of(text, words, slots):
        tags[begin:end] = [f"B-{name}", *[f"I-{name}"] * (end - begin - 1)]
    return tags


def spans_in(tags: Sequence[str]) -> list[Span]:
    """The values that tags stand for; an I without a B before it begins a value."""
    found: list[Span] = []
    for place, tag in enumerate(tags):
        kind, _, name = tag.partition("-")
        if kind == "I" and found and found[-1].name == name and found[-1].end == place:
            found[-1] = found[-1]._replace(end=place + 1)
        elif kind != OUTSIDE:
            found.append(Span(name, place, place + 1))
    return found


def slots_in(text: str, words: Sequence[Word], tags: Sequence[str]) -> list[Slot]:
    """The slots that tags stand for, with their values as they stand in the text."""
    return [Slot(name, text[words[begin].start : words[end - 1].end]) for name, begin, end in spans_in(tags)]


def likeliest_tags(scores: np.ndarray) -> np.ndarray:
    """The tags [words] int64 of the highest sum of ``scores`` [words, tags] in which every I follows its own B or I.

    Viterbi, IEEE Transactions on Information Theory 13(2), 1967. Every tag but I may follow any, so a step needs the
    best tag before and nothing else: the cost grows with the number of tags, not with its square.
    """
    best = scores.argmax(axis=1)
    if follows(best):
        return best
    places = np.arange(scores.shape[1])
    total = scores[0].copy()
    total[2::2] = -np.inf  # nothing to go on with
    came: list[np.ndarray] = []
    for row in scores[1:]:
        before = np.full_like(places, total.argmax())
        before[2::2] = places[2::2] - (total[1::2] >= total[2::2])  # I after its own B or I
        came.append(before)
        total = total[before] + row
    path = [int(total.argmax())]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], dtype=np.int64)


def follows(tags: np.ndarray) -> bool:
    """Whether every I [words] of tag_names' order stands behind a B or an I of its slot."""
    before = np.concatenate([[0], tags[:-1]])
    goes_on = (tags > 0) & (tags % 2 == 0)
    return bool(((before == tags) | (before == tags - 1))[goes_on].all())


def standing_in(text: str, words: Sequence[Word], slots: Sequence[Slot]) -> list[Slot]:
    """Those slots whose values a text says, as it says them, every time it does."""
    return slots_in(text, words, tags_of(text, words, slots))
