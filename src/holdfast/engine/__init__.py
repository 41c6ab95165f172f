"""Floor 1: the memory cell in Python. ``reference`` is the truth, ``functional`` the door, ``module`` the layer,
``stream`` one step at a time."""

from .accelerate import accelerate, restore
from .backend import backend_report
from .functional import lstm
from .module import LSTM
from .reference import State, Weights
from .stream import Streams

__all__ = ["LSTM", "State", "Streams", "Weights", "accelerate", "backend_report", "lstm", "restore"]
