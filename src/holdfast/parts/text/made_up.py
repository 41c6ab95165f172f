"""Made-up stories of simple sentences, for tests and first runs."""

import numpy as np

WHO = ("the fox", "the old crab", "a small bird", "the girl", "her brother", "the king", "a tired sailor")
SEES = ("sees", "likes", "follows", "finds", "hears", "forgets")
WHAT = ("the sea", "a red stone", "the boat", "an open door", "the moon", "a loaf of bread")
WHERE = ("by the shore", "in the rain", "at night", "behind the hill", "near the mill")
ENDS = ("and goes home", "and laughs", "and says nothing", "and sleeps", "and sings")


def story(rng: np.random.Generator) -> str:
    """A few sentences about one who was there from the first line on: a line each."""
    who = WHO[int(rng.integers(len(WHO)))]
    return "".join(sentence(who, rng) + "\n" for _ in range(int(rng.integers(4, 9))))


def sentence(who: str, rng: np.random.Generator) -> str:
    words = [who, *(choice[int(rng.integers(len(choice)))] for choice in (SEES, WHAT))]
    if rng.random() < 0.5:
        words.append(WHERE[int(rng.integers(len(WHERE)))])
    if rng.random() < 0.3:
        words.append(ENDS[int(rng.integers(len(ENDS)))])
    return " ".join(words) + " ."
