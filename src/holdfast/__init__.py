"""Holdfast: Long Short-Term Memory networks that are fast on a CPU, and sixteen applications on them.

    import holdfast
    model = holdfast.Forecaster(horizon=24).fit("sales.csv")
    model.predict("sales.csv")
    model.save("sales.safetensors")

Importing this costs nothing: torch is loaded when the first of the names below is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module; looked up on first use (PEP 562)
_HOMES = {
    "LSTM": "engine",
    "LSTMLayer": "engine",
    "LSTMStack": "engine",
    "Cell": "engine",
    "Connection": "engine",
    "State": "engine",
    "Weights": "engine",
    "lstm": "engine",
    "accelerate": "engine",
    "restore": "engine",
    "backend_report": "engine",
    "Streams": "engine",
    "Sequences": "parts.sequences",
    "Application": "training.application",
    "Recipe": "training.application",
    "Stream": "training.application",
    "Run": "training.run",
    "Model": "training.model",
    "Forecaster": "apps.forecast",
    "ActivityRecognizer": "apps.activity",
    "LanguageModel": "apps.language",
    "Recommender": "apps.recommend",
    "Translator": "apps.translate",
    "Chatbot": "apps.chat",
    "load": "apps",
}
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  the table above is the list

if TYPE_CHECKING:
    from .apps import load as load
    from .apps.activity import ActivityRecognizer as ActivityRecognizer
    from .apps.chat import Chatbot as Chatbot
    from .apps.forecast import Forecaster as Forecaster
    from .apps.language import LanguageModel as LanguageModel
    from .apps.recommend import Recommender as Recommender
    from .apps.translate import Translator as Translator
    from .engine import LSTM as LSTM
    from .engine import Cell as Cell
    from .engine import Connection as Connection
    from .engine import LSTMLayer as LSTMLayer
    from .engine import LSTMStack as LSTMStack
    from .engine import State as State
    from .engine import Streams as Streams
    from .engine import Weights as Weights
    from .engine import accelerate as accelerate
    from .engine import backend_report as backend_report
    from .engine import lstm as lstm
    from .engine import restore as restore
    from .parts.sequences import Sequences as Sequences
    from .training.application import Application as Application
    from .training.application import Recipe as Recipe
    from .training.application import Stream as Stream
    from .training.model import Model as Model
    from .training.run import Run as Run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    home = _HOMES[name]
    if home.startswith("apps."):  # by the table of applications, which knows what to say where a package is missing
        return importlib.import_module(f"{__name__}.apps").application(home.removeprefix("apps."))
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
