"""From scores of the next token to a token: temperature, top-k, top-p, penalties, and the dice that are handed in.

Nucleus sampling (top-p): Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020. A repetition
penalty as in Keskar et al., "CTRL", 2019, section 4.1, but of odds instead of logits, whose zero means nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the likeliest, 1 draws as the network says, more is wilder.
    top_k: only from so many of the likeliest; 0: from all.
    top_p: only from the fewest tokens that have this probability together.
    repetition: by so much the odds of each of the last ``recent`` tokens are divided; 1 changes nothing.
    no_repeat: no run of so many tokens comes a second time; 0: it may.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition: float = 1.0
    recent: int = 64
    no_repeat: int = 0

    def choose(self, logits: np.ndarray, past: Sequence[int], rng: np.random.Generator) -> int:
        """A token from logits [tokens], knowing the tokens so far."""
        logits = self.penalised(logits, past)
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits.astype(np.float64) / self.temperature
        order = np.argsort(-logits, kind="stable") if self.top_p < 1 or self.top_k else np.arange(len(logits))
        order = order[: self.top_k] if self.top_k else order
        powers = np.exp(logits[order] - logits[order].max())
        if self.top_p < 1:
            before = np.cumsum(powers) - powers
            powers = np.where(before < self.top_p * powers.sum(), powers, 0.0)
        until = np.cumsum(powers)
        place = int(np.searchsorted(until, rng.random() * until[-1], side="right"))
        return int(order[min(place, int(np.flatnonzero(powers)[-1]))])

    def penalised(self, logits: np.ndarray, past: Sequence[int]) -> np.ndarray:
        """Logits less in favour of what was said already."""
        if self.repetition == 1 and not self.no_repeat:
            return logits
        logits = logits.copy()
        if self.repetition != 1:
            said = np.unique(np.array(past[-self.recent :], dtype=np.int64))
            logits[said] -= np.log(self.repetition)
        for token in self.would_repeat(past):
            logits[token] = -np.inf
        if not np.isfinite(logits).any():
            raise ValueError("every token would repeat something: no_repeat is too small for this vocabulary")
        return logits

    def would_repeat(self, past: Sequence[int]) -> set[int]:
        """The tokens with which the last ones would make a run that came before."""
        size = self.no_repeat
        if not size or len(past) < size:
            return set()
        tail = list(past[len(past) - size + 1 :])
        return {past[n + size - 1] for n in range(len(past) - size + 1) if list(past[n : n + size - 1]) == tail}
