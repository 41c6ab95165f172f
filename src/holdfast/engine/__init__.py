"""Floor 1: the memory cell in Python. ``reference`` is the truth, ``functional`` the door, ``module`` the layer,
``stream`` one step at a time."""

from .accelerate import accelerate, restore
from .backend import backend_report
from .cells import State, Variant, Weights, Zoneout
from .functional import lstm
from .gates import Gates, gates
from .layer import Cell, LSTMLayer
from .module import LSTM
from .stack import Connection, LSTMStack
from .stream import Streams

__all__ = [
    "LSTM",
    "Cell",
    "Connection",
    "Gates",
    "LSTMLayer",
    "LSTMStack",
    "State",
    "Streams",
    "Variant",
    "Weights",
    "Zoneout",
    "accelerate",
    "backend_report",
    "gates",
    "lstm",
    "restore",
]
