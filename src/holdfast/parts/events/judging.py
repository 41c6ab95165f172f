"""How good the rankings are: leave-one-out over all items, beside what can be had without a network."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .answering import Answering
from .history import History
from .ranking import measures, places

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 16.0)  # of the rules, tried out
TEMPERATURES = np.geomspace(0.5, 16.0, 31)
ENOUGH = 5000  # of them
ENOUGH_CELLS = 1 << 30  # events times items

# Scores [block, items + 1] in several ways, each with its name, of some questions
Ways = Callable[[Tensor, Sequence[np.ndarray]], Iterator[tuple[str, np.ndarray]]]


class Questions(NamedTuple):
    """What came before some events, and which item each was."""

    pasts: list[np.ndarray]
    answers: np.ndarray  # [questions] int64, 0 for an item that was never met


def questions_of(answering: Answering, histories: Sequence[History]) -> Questions:
    """The held events of each history, or its last one; each is asked about knowing all before it."""
    pasts: list[np.ndarray] = []
    answers: list[int] = []
    for one in histories:
        items = answering.codec.numbered(one.items)
        for place in range(max(1, len(items) - max(1, one.held)), len(items)):
            pasts.append(items[:place])
            answers.append(int(items[place]))
    return Questions(pasts, np.array(answers, dtype=np.int64))


def placed(answering: Answering, questions: Questions, ways: Ways) -> dict[str, np.ndarray]:
    """For each way of scoring how many items it puts before the answer, [questions]; all are ranked.

    An answer that cannot be given, since the model never met it or the user has had it, stands behind everything.
    """
    found: dict[str, list[np.ndarray]] = {}
    for block in answering.blocks(len(questions.pasts)):
        pasts, answers = questions.pasts[block], questions.answers[block]
        for who, scores in ways(answering.last_vectors(pasts), pasts):
            scores = answering.barred(scores, pasts)
            possible = np.isfinite(scores[np.arange(len(scores)), answers])
            found.setdefault(who, []).append(np.where(possible, places(scores, answers), scores.shape[1]))
    return {who: np.concatenate(parts) for who, parts in found.items()}


def with_popularity(answering: Answering, scores: np.ndarray) -> np.ndarray:
    """Counted scores, and among what was not counted the popular items first."""
    return scores + 1e-6 * answering.codec.popularity


def judge(answering: Answering, histories: Sequence[History]) -> dict[str, dict[str, float]]:
    """Hit rate, NDCG and reciprocal rank: ours, its two halves alone, and the baselines."""
    codec = answering.codec

    def ways(vectors: Tensor, pasts: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        halves = answering.halves(vectors, pasts)
        yield "holdfast", answering.mixed(halves, pasts)
        yield "its LSTM alone", answering.mixed(halves, pasts, 0.0)
        yield "sequential rules", with_popularity(answering, halves.rules)
        yield "Markov chain", with_popularity(answering, codec.by_chain(pasts))
        yield "popularity", np.tile(codec.popularity, (len(pasts), 1))

    questions = questions_of(answering, histories)
    return {who: measures(place) for who, place in placed(answering, questions, ways).items()}


def enough(histories: Sequence[History], items: int) -> Sequence[History]:
    """Some thousand of the histories, and so many fewer that all ``items`` can be ranked for each of their events."""
    asked = sum(max(1, one.held) for one in histories)
    return histories[:: max(1, -(-len(histories) // ENOUGH), -(-asked * items // ENOUGH_CELLS))]


def best_weight(answering: Answering, histories: Sequence[History]) -> float:
    """The weight of the rules of the best NDCG@10, on a few thousand of the histories."""

    def ways(vectors: Tensor, pasts: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        halves = answering.halves(vectors, pasts)
        return ((str(weight), answering.pooled(halves, weight)) for weight in WEIGHTS)

    questions = questions_of(answering, enough(histories, len(answering.codec.items)))
    scored = {who: measures(place)["NDCG@10"] for who, place in placed(answering, questions, ways).items()}
    return float(max(scored, key=lambda who: scored[who]))


def best_temperature(answering: Answering, histories: Sequence[History]) -> float:
    """By what the logarithms of scores are to be divided, so that probabilities are honest: that of least log loss."""
    questions = questions_of(answering, enough(histories, len(answering.codec.items)))
    losses = np.zeros(len(TEMPERATURES))
    for block in answering.blocks(len(questions.pasts)):
        pasts, answers = questions.pasts[block], questions.answers[block]
        pooled = torch.from_numpy(answering.pooled(answering.halves(answering.last_vectors(pasts), pasts)))
        known = torch.from_numpy(answers)
        pooled, known = pooled[known > 0], known[known > 0]
        for n, temperature in enumerate(TEMPERATURES.tolist()):
            losses[n] += float(functional.cross_entropy(pooled / temperature, known, reduction="sum"))
    return float(TEMPERATURES[losses.argmin()])
