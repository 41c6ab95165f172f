"""Floor 4: the applications, one file each. None imports another.

The table below is the only list of them. It is text, so that the command line can answer --help without importing
torch; a model file's application is looked up here and nowhere else.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..parts.errors import MissingExtraError

if TYPE_CHECKING:
    from ..training.model import Model

# task -> (module, class, summary)
APPLICATIONS: dict[str, tuple[str, str, str]] = {
    "language": ("language", "LanguageModel", "text in, its continuation, perplexity and surprise per token out"),
    "forecast": ("forecast", "Forecaster", "series in, quantiles of their future out"),
    "recommend": ("recommend", "Recommender", "events of users in, ranked next items out, for new users too"),
    "translate": (
        "translate",
        "Translator",
        "lines in one language in, lines in another out, with n-best and alignment",
    ),
    "chat": ("chat", "Chatbot", "a user's messages in, intents, slots and replies out, token by token"),
    "activity": (
        "activity",
        "ActivityRecognizer",
        "sensor recordings in, a timeline of activities out, on file and live",
    ),
}

EXTRAS = {
    "polars": "data",
    "narwhals": "data",
    "pyarrow": "data",
    "matplotlib": "plots",
    "tokenizers": "text",
    "sacrebleu": "text",
}  # package -> what brings it


def application(task: str) -> Any:
    """The application class of a task. Raises KeyError for a word that is not a task."""
    module, name, _ = APPLICATIONS[task]
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            raise MissingExtraError(error.name, EXTRAS[error.name], f"the application {task}") from None
        raise


def load(path: str | Path) -> "Model[Any, Any, Any, Any, Any, Any]":
    """Open a model file. Raises ModelFileError where it cannot be used."""
    from ..training import model

    return model.load(path, application)
