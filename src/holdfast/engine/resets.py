"""Sequences in which the memory is cleared on the way: episodes end, documents begin, sensors restart.

Between two resets a row is a sequence of its own. So the batch is cut at them and the pieces run side by side as rows
of a packed batch: what would be a mask at every step costs nothing there, and more rows run at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .cells import State


class Pieces(NamedTuple):
    """A batch cut at its resets."""

    row: Tensor  # int64 [pieces] of which row each is a piece
    lengths: Tensor  # int64 [pieces]
    fresh: Tensor  # bool [pieces] whether it begins with a cleared memory
    last: Tensor  # int64 [batch] each row's last piece
    time: Tensor  # int64 [row-steps] where each packed row-step stands in the batch: its step
    place: Tensor  # int64 [row-steps] and its row


def cut(resets: Tensor, lengths: Tensor | None) -> Pieces:
    """resets: bool [time, batch], true where a row's memory is cleared before the step.

    Pieces stand row by row, within a row in the order of time. A reset past a row's length does nothing.
    """
    steps, batch = resets.shape
    ends = torch.full((batch,), steps) if lengths is None else lengths  # [batch]
    begins = resets.clone()
    begins &= torch.arange(steps).unsqueeze(1) < ends
    if steps:
        begins[0] = True
    rows, starts = begins.T.nonzero(as_tuple=True)  # row by row
    if not steps:
        rows, starts = torch.arange(batch), torch.zeros(batch, dtype=torch.int64)
    begins_row = torch.ones_like(rows, dtype=torch.bool)
    begins_row[1:] = rows[1:] != rows[:-1]
    nexts = ends[rows]
    nexts[:-1] = torch.where(begins_row[1:], nexts[:-1], starts[1:])
    sizes = nexts - starts
    fresh = resets[starts, rows] & (sizes > 0) if steps else torch.zeros(batch, dtype=torch.bool)
    last = begins_row.roll(-1).nonzero().flatten() if len(rows) else rows
    order = sizes.argsort(descending=True, stable=True)
    runs = torch.arange(int(sizes.max()) if len(sizes) else 0).unsqueeze(1) < sizes[order]  # [step, pieces]
    time = (torch.arange(runs.shape[0]).unsqueeze(1) + starts[order])[runs]
    return Pieces(rows, sizes, fresh, last, time, rows[order].expand(runs.shape)[runs])


def states(pieces: Pieces, before: State, cleared: State) -> State:
    """The state each piece begins with: the row's own, or the cleared one. Both [batch, ...]."""

    def begin(own: Tensor, anew: Tensor) -> Tensor:
        fresh = pieces.fresh.to(own.device).unsqueeze(-1)
        row = pieces.row.to(own.device)
        return torch.where(fresh, anew.index_select(-2, row), own.index_select(-2, row))

    return State(begin(before.h, cleared.h), begin(before.c, cleared.c))
