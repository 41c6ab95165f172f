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

SHARES = np.linspace(0.0, 1.0, 21)  # of the rules, tried on the validation histories
TEMPERATURES = np.geomspace(0.5, 8.0, 25)
ENOUGH = 5000  # of them

Score = Callable[[Tensor, Sequence[np.ndarray]], np.ndarray]


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


def placed(answering: Answering, questions: Questions, ways: dict[str, Score]) -> dict[str, np.ndarray]:
    """For each way of scoring how many items it puts before the answer, [questions]; all are ranked.

    An answer that cannot be given, since the model never met it or the user has had it, stands behind everything.
    """
    found: dict[str, list[np.ndarray]] = {who: [] for who in ways}
    for block in answering.blocks(len(questions.pasts)):
        pasts, answers = questions.pasts[block], questions.answers[block]
        vectors = answering.last_vectors(pasts)
        for who, way in ways.items():
            scores = answering.barred(way(vectors, pasts), pasts)
            possible = np.isfinite(scores[np.arange(len(scores)), answers])
            found[who].append(np.where(possible, places(scores, answers), scores.shape[1]))
    return {who: np.concatenate(parts) for who, parts in found.items()}


def with_popularity(answering: Answering, scores: np.ndarray) -> np.ndarray:
    """Counted scores, and among what was not counted the popular items first."""
    return scores + 1e-6 * answering.codec.popularity


def judge(answering: Answering, histories: Sequence[History]) -> dict[str, dict[str, float]]:
    """Hit rate, NDCG and reciprocal rank: ours, its two halves alone, and the baselines."""
    codec = answering.codec
    ways: dict[str, Score] = {
        "holdfast": answering.scores,
        "its LSTM alone": lambda vectors, pasts: answering.scores(vectors, pasts, 0.0),
        "sequential rules": lambda _, pasts: with_popularity(answering, codec.by_rules(pasts)),
        "Markov chain": lambda _, pasts: with_popularity(answering, codec.by_chain(pasts)),
        "popularity": lambda _, pasts: np.tile(codec.popularity, (len(pasts), 1)),
    }
    questions = questions_of(answering, histories)
    return {who: measures(place) for who, place in placed(answering, questions, ways).items()}


@torch.inference_mode()
def best_temperature(answering: Answering, histories: Sequence[History]) -> float:
    """By what the network's logits are to be divided, so that its probabilities are honest: that of least log loss."""
    questions = questions_of(answering, histories[:: -(-len(histories) // ENOUGH)])
    losses = np.zeros(len(TEMPERATURES))
    for block in answering.blocks(len(questions.pasts)):
        answers = torch.from_numpy(questions.answers[block])
        logits = answering.net.logits(answering.last_vectors(questions.pasts[block]))[answers > 0]
        for n, temperature in enumerate(TEMPERATURES.tolist()):
            losses[n] += float(functional.cross_entropy(logits / temperature, answers[answers > 0], reduction="sum"))
    return float(TEMPERATURES[losses.argmin()])


def best_share(answering: Answering, histories: Sequence[History]) -> float:
    """The share of the rules of the best NDCG@10, on a few thousand of the histories."""
    step = -(-len(histories) // ENOUGH)
    questions = questions_of(answering, histories[::step])
    ways: dict[str, Score] = dict(sharing(answering))
    scored = {who: measures(place)["NDCG@10"] for who, place in placed(answering, questions, ways).items()}
    return float(max(scored, key=lambda who: scored[who]))


def sharing(answering: Answering) -> Iterator[tuple[str, Score]]:
    for share in SHARES.tolist():
        yield str(share), lambda vectors, pasts, share=share: answering.scores(vectors, pasts, share)
