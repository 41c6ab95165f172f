"""How well messages are understood."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..classification import accuracy, confidence_error, macro_f1
from .conversation import Slot
from .understanding import Understood


def intent_scores(
    truth: Sequence[str],
    likeliest: Sequence[str],
    taken: Sequence[str | None],
    confidence: Sequence[float],
    outside: str | None,
) -> dict[str, float]:
    """Shares between 0 and 1.

    accuracy, macro_f1   of the likeliest intent, over messages in scope: as if nothing were ever rejected
    kept                 share of the messages in scope that are not rejected
    accepted_accuracy    share of the messages in scope that are right and not rejected
    rejected             share of the messages out of scope that are rejected: their recall; where there are any
    rejected_rightly     share of what is rejected that is out of scope: their precision; where there are any
    calibration_error    classification.confidence_error of the likeliest intent; out of scope it is never right
    (Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", EMNLP 2019.)

    Args:
        truth: every message's intent.
        likeliest: what it would be, were it in scope.
        taken: the same, or None where the message is rejected.
        confidence: the probability of the likeliest intent.
        outside: the intent that messages out of scope carry.
    """
    inside = np.array([intent != outside for intent in truth], dtype=bool)
    rejected = np.array([intent is None for intent in taken], dtype=bool)
    names = {name: number for number, name in enumerate(sorted({*truth, *likeliest}))}
    wanted, best = (np.array([names[name] for name in many], dtype=np.int64) for many in (truth, likeliest))
    scores: dict[str, float] = {}
    if inside.any():
        scores["accuracy"] = accuracy(wanted[inside], best[inside])
        scores["macro_f1"] = macro_f1(wanted[inside], best[inside], len(names))
        scores["kept"] = float(1 - rejected[inside].mean())
        scores["accepted_accuracy"] = float(((wanted == best) & ~rejected)[inside].mean())
    if not inside.all():
        scores["rejected"] = float(rejected[~inside].mean())
        scores["rejected_rightly"] = float((rejected & ~inside).sum() / max(1, rejected.sum()))
    if len(truth):
        scores["calibration_error"] = confidence_error(np.array(confidence), (wanted == best) & inside)
    return scores


def understood_scores(truth: Sequence[str], found: Sequence[Understood], outside: str | None) -> dict[str, float]:
    """intent_scores of what was understood."""
    likeliest = [one.alternatives[0][0] if one.alternatives else "" for one in found]
    return intent_scores(truth, likeliest, [one.intent for one in found], [one.confidence for one in found], outside)


def slot_scores(truth: Sequence[Sequence[Slot]], found: Sequence[Sequence[Slot]]) -> dict[str, float]:
    """Precision, recall and F1 over slots; one is right where its name and its whole value are.

    Values are compared as they stand in the text: let those of ``truth`` come from slots.spans_of, which leaves out
    what the text does not say.
    """
    right = sum((Counter(a) & Counter(b)).total() for a, b in zip(truth, found, strict=True))
    wanted, given = sum(map(len, truth)), sum(map(len, found))
    return {
        "slot_precision": right / given if given else 0.0,
        "slot_recall": right / wanted if wanted else 0.0,
        "slot_f1": 2 * right / (wanted + given) if wanted + given else 0.0,
    }
