"""Rankings: the best items of a score, and how good a ranking is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """What may come next for one user, the best first."""

    user: str
    items: tuple[str, ...]
    scores: np.ndarray  # [items] float32, probabilities
    reasons: tuple[str, ...]  # for each item, the one of the user's own items that speaks for it; "" where none does


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the highest finite scores [items], falling; equal ones in the order of their numbers."""
    count = min(count, int(np.isfinite(scores).sum()))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    border = np.partition(scores, len(scores) - count)[len(scores) - count]
    candidates = np.flatnonzero(scores >= border)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def places(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """How many items stand before the answer, [rows], in scores [rows, items]; of equal scores half of them do."""
    own = scores[np.arange(len(scores)), answers][:, None]
    return (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2


def measures(place: np.ndarray, count: int = 10) -> dict[str, float]:
    """Hit rate and NDCG among the first ``count`` with one right answer each, and the mean reciprocal rank.

    ``place`` [rows] counts the items before the answer. NDCG: Järvelin & Kekäläinen, ACM TOIS 20(4), 2002; with one
    right answer it is 1 / log2(2 + place).
    """
    hit = place < count
    return {
        f"HR@{count}": float(hit.mean()),
        f"NDCG@{count}": float(np.where(hit, 1 / np.log2(place + 2), 0).mean()),
        "MRR": float((1 / (place + 1)).mean()),
    }


def ranking_rows(outputs: Sequence[Ranking]) -> list[dict[str, Any]]:
    """One row per recommended item."""
    return [
        {"user": one.user, "rank": rank, "item": item, "score": round(float(score), 6), "because": reason}
        for one in outputs
        for rank, (item, score, reason) in enumerate(zip(one.items, one.scores, one.reasons, strict=True), start=1)
    ]
