"""How good a classifier is, and the simple classifiers it must beat."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

log = logging.getLogger("holdfast")


def accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """The share of right answers; both [items] class numbers."""
    return float((truth == guess).mean())


def confusion(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes]: row is the truth, column the answer."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth, guess), 1)
    return table


def macro_f1(truth: np.ndarray, guess: np.ndarray, classes: int) -> float:
    """The mean over classes of 2 * right / (answered + true); classes that occur nowhere do not count."""
    table = confusion(truth, guess, classes)
    size: np.ndarray = table.sum(0) + table.sum(1)
    each = 2 * np.diag(table)[size > 0] / size[size > 0]
    return float(each.mean())


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: |confidence - accuracy| in equal bins of confidence, weighted by their counts.

    ``truth`` [items], ``probabilities`` [items, classes]. Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, section 2.
    """
    return confidence_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, bins)


def confidence_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """calibration_error of answers: the ``confidence`` [items] of each, 0 to 1, and whether it is ``right`` [items]."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == n].sum() - right[place == n].sum()) for n in range(bins)]
    return float(sum(gaps) / max(1, len(right)))


def log_loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability (nats) of the truth [items] under ``probabilities`` [items, classes]."""
    return abs(float(np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean()))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [items, classes] made softer (temperature above 1) or sharper."""
    logits = np.log(np.maximum(probabilities, 1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def best_temperature(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature of least log loss between 1/8 and 8, to about 3 %. Guo et al., 2017, section 4.2."""
    choices = np.geomspace(1 / 8, 8, 135)
    return float(min(choices, key=lambda choice: log_loss(truth, tempered(probabilities, float(choice)))))


def scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """One row of a table of results, from truth [items] and probabilities [items, classes]."""
    guess = probabilities.argmax(axis=1)
    return {
        "accuracy": accuracy(truth, guess),
        "macro_f1": macro_f1(truth, guess, probabilities.shape[1]),
        "log_loss": log_loss(truth, probabilities),
        "calibration_error": calibration_error(truth, probabilities),
    }


def say_plainly(table: dict[str, dict[str, float]], task: str) -> None:
    """Warn where a baseline is better than the model."""
    for measure in ("accuracy", "macro_f1"):
        others = {who: row[measure] for who, row in table.items() if who != "holdfast"}
        best = max(others, key=lambda who: others[who])
        ours = table["holdfast"][measure]
        if others[best] > ours or (others[best] == ours and ours < 1):
            log.warning(
                "%s: %s is as good as this model or better here (%s %.3f against %.3f): "
                "use it, or train longer or on more examples",
                task, best, measure, others[best], ours,
            )  # fmt: skip


@dataclass(frozen=True)
class LinearClassifier:
    """Softmax regression: what a classifier without layers makes of the same numbers."""

    mean: np.ndarray  # [features] float32, of the training items
    scale: np.ndarray  # [features] float32, their standard deviation
    weights: np.ndarray  # [features + 1, classes] float32, the last row is the bias

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """x [items, features] -> [items, classes]."""
        logits = (x - self.mean) / self.scale @ self.weights[:-1] + self.weights[-1]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def fit_linear(x: np.ndarray, y: np.ndarray, classes: int, decay: float = 1e-3, steps: int = 100) -> LinearClassifier:
    """Softmax regression on x [items, features], y [items], by L-BFGS; ``decay`` weighs the squares of the weights."""
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    inputs = torch.tensor((x - mean) / scale, dtype=torch.float64)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    targets = torch.tensor(y, dtype=torch.int64)
    weights = torch.zeros(inputs.shape[1], classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights, targets) + decay * weights[:-1].square().sum()
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        search.step(loss)  # pyright: ignore[reportUnknownMemberType]  torch does not say what a closure is
    found = weights.detach().numpy().astype(np.float32)
    return LinearClassifier(mean.astype(np.float32), scale.astype(np.float32), found)
