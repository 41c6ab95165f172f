"""Strided convolutions over time: they find short shapes in a signal and hand on fewer, richer steps."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..engine import LSTM


class StridedConvolutions(nn.Module):
    """Blocks of convolution, batch normalisation and ReLU, each leaving every ``stride``-th step."""

    def __init__(self, features: int, filters: Sequence[int], *, width: int = 5, stride: int = 2) -> None:
        super().__init__()
        sizes = [features, *filters]
        self.stride = stride
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(before, after, width, stride=stride, padding=width // 2, bias=False),
                    nn.BatchNorm1d(after),
                    nn.ReLU(),
                )
                for before, after in itertools.pairwise(sizes)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, time, features] -> [batch, time / stride ** blocks (rounded up), filters of the last block]."""
        return self.blocks(x.transpose(1, 2)).transpose(1, 2)


class ConvolutionalLSTM(nn.Module):
    """Strided convolutions, a bidirectional LSTM over the steps they leave, mean and maximum over time, a linear head.

    The idea of DeepConvLSTM (Ordonez & Roggen, Sensors 16(1), 2016), with strides and pooling.
    """

    def __init__(
        self, features: int, classes: int, filters: int, hidden: int, *, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.convolutions = StridedConvolutions(features, (filters, filters))
        self.drop = nn.Dropout(dropout)
        self.lstm = LSTM(filters, hidden, layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, time, features] -> logits [batch, classes]."""
        y, _ = self.lstm(self.drop(self.convolutions(x)))  # [batch, time / 4, 2 * hidden]
        return self.head(self.drop(torch.cat([y.mean(1), y.amax(1)], dim=1)))
