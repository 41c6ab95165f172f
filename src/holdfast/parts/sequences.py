"""Rows of unequal length, with their lengths: the (data, lengths, mask) that everybody else passes by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences. Past a row's length anything may stand: nothing reads it."""

    data: Tensor  # [batch, time, ...]
    lengths: Tensor  # [batch] int64, 0 <= lengths <= time, on the CPU

    def __post_init__(self) -> None:
        if self.data.dim() < 2:
            raise ValueError(f"data must be [batch, time, ...], not {list(self.data.shape)}")
        if self.lengths.shape != self.data.shape[:1] or self.lengths.dtype != torch.int64:
            raise ValueError(
                f"lengths must be int64 [batch {self.data.shape[0]}], "
                f"not {self.lengths.dtype} {list(self.lengths.shape)}"
            )

    @classmethod
    def pad(cls, rows: Sequence[Tensor]) -> Self:
        """Stack rows [time_i, ...] of unequal length, zeros behind the shorter ones."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths)

    @property
    def mask(self) -> Tensor:
        """[batch, time] bool: True where a row has an entry."""
        times = torch.arange(self.data.shape[1], device=self.data.device)
        return times < self.lengths.to(self.data.device).unsqueeze(1)

    def rows(self) -> list[Tensor]:
        """The rows cut to their lengths, [time_i, ...]."""
        return [row[:length] for row, length in zip(self.data, self.lengths.tolist(), strict=True)]

    def last(self, y: Tensor) -> Tensor:
        """The entry of y [batch, time, ...] at each row's own last step, [batch, ...]; zeros for rows of length 0."""
        at = (self.lengths - 1).clamp(min=0).to(y.device)
        entry = y[torch.arange(len(at), device=y.device), at]
        keep = (self.lengths > 0).to(y.device).reshape(-1, *[1] * (entry.dim() - 1))
        return torch.where(keep, entry, torch.zeros_like(entry))

    def mean(self, y: Tensor) -> Tensor:
        """The mean of y [batch, time, features] over each row's own steps, [batch, features]."""
        mask = self.mask.unsqueeze(-1)
        total = torch.where(mask, y, torch.zeros_like(y)).sum(1)
        return total / self.lengths.clamp(min=1).to(y.device, y.dtype).unsqueeze(1)
