"""Made-up sentences in two made-up languages: other words, adjectives behind their nouns, the verb at the end."""

from typing import Final, NamedTuple

import numpy as np

WORDS: Final = {
    "the": "la",
    "a": "un",
    "fox": "volpa",
    "crab": "krabo",
    "girl": "dona",
    "sailor": "marino",
    "king": "rego",
    "boat": "barko",
    "stone": "petra",
    "moon": "luno",
    "door": "porta",
    "loaf": "pano",
    "red": "ruza",
    "old": "vela",
    "small": "mika",
    "quiet": "kalma",
    "sees": "vidas",
    "likes": "amas",
    "finds": "trovas",
    "hears": "audas",
    "today": "hodia",
    "often": "ofta",
}
NOUNS: Final = ("fox", "crab", "girl", "sailor", "king", "boat", "stone", "moon", "door", "loaf")
KINDS: Final = ("red", "old", "small", "quiet")
VERBS: Final = ("sees", "likes", "finds", "hears")
TIMES: Final = ("today", "often")


class Phrase(NamedTuple):
    """The same in both languages."""

    source: tuple[str, ...]
    target: tuple[str, ...]


def noun_phrase(rng: np.random.Generator) -> Phrase:
    article, noun = ("the", "a")[int(rng.integers(2))], NOUNS[int(rng.integers(len(NOUNS)))]
    if rng.random() < 0.5:
        return Phrase((article, noun), (WORDS[article], WORDS[noun]))
    kind = KINDS[int(rng.integers(len(KINDS)))]
    return Phrase((article, kind, noun), (WORDS[article], WORDS[noun], WORDS[kind]))


def sentence(rng: np.random.Generator) -> tuple[str, str]:
    """A sentence and its translation: who sees whom, and perhaps when, which the other language says first."""
    who, whom = noun_phrase(rng), noun_phrase(rng)
    verb = VERBS[int(rng.integers(len(VERBS)))]
    source, target = (*who.source, verb, *whom.source), (*who.target, *whom.target, WORDS[verb])
    if rng.random() < 0.3:
        when = TIMES[int(rng.integers(len(TIMES)))]
        source, target = (*source, when), (WORDS[when], *target)
    return " ".join((*source, ".")), " ".join((*target, "."))
