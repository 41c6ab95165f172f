"""Floor 1: the memory cell in Python."""

from .module import LSTM
from .reference import State, Weights

__all__ = ["LSTM", "State", "Weights"]
