"""Floor 1: the memory cell in Python. ``reference`` is the truth, ``functional`` the door, ``module`` the layer."""

from .accelerate import accelerate, restore
from .backend import backend_report
from .functional import lstm
from .module import LSTM
from .reference import State, Weights

__all__ = ["LSTM", "State", "Weights", "accelerate", "backend_report", "lstm", "restore"]
