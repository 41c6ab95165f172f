"""Floor 1: the memory cell in Python. ``reference`` is the truth, ``functional`` the door, ``module`` the layer,
``stream`` one step at a time."""

import torch

from .accelerate import accelerate, restore
from .backend import backend_report
from .cells import State, Variant, Weights, Zoneout
from .functional import lstm
from .gates import Gates, gates
from .layer import Cell, LSTMLayer
from .module import LSTM
from .stack import Connection, LSTMStack
from .stream import Streams

# So that torch.load(..., weights_only=True), its default, gives a saved State back: a named tuple of tensors.
torch.serialization.add_safe_globals([State])

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
