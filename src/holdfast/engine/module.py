"""The LSTM layer."""

from torch.nn import LSTM

__all__ = ["LSTM"]
