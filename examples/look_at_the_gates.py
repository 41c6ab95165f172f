"""What the cell does: with the forget gate open it counts, with the forget gate shut it forgets."""

import torch

from holdfast.engine import Weights, lstm

HIDDEN = 1
OPEN, SHUT = 50.0, -50.0


def cell_after(ones: int, forget: float) -> float:
    """The memory of a one-unit LSTM after a sequence of ones, its candidate being tanh(x) and its other gates open."""
    x = torch.ones(ones, 1, 1)  # [time, batch, features]
    input_weights = torch.tensor([[0.0], [0.0], [1.0], [0.0]])  # rows i f g o
    bias = torch.tensor([OPEN, forget, 0.0, OPEN])
    _, state = lstm(x, Weights(input_weights, torch.zeros(4, HIDDEN), bias))
    return float(state.c)


for steps in (1, 10, 1000):
    kept, lost = cell_after(steps, OPEN), cell_after(steps, SHUT)
    print(f"{steps:>5} ones: forget gate open, the cell holds {kept:9.3f}; shut, {lost:.3f}")
