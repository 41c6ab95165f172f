"""The segment LSTM: it reads a series a segment at a time and writes all coming segments at once.

After SegRNN (Lin et al., "SegRNN: Segment Recurrent Neural Network for Long-Term Time Series Forecasting", 2023):
fewer, longer steps through time, and a decoder that does not feed on its own output. What is ours: quantiles, gaps,
covariates, and a future written as a learned mixture of first guesses (last value, last seasons) plus a residual.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...engine import LSTM
from ..quantiles import QuantileHead
from .calendar import calendar_width
from .windows import Cut, Windows

UNKNOWN_SHARE = 0.1  # of training windows whose series is hidden, so that unseen series find a trained place


@dataclass(frozen=True)
class Size:
    """How large one member is."""

    hidden: int
    dropout: float
    members: int


class SegmentLSTM(nn.Module):
    """One member. ``linear`` adds a linear path from the history to the median, as in NLinear (Zeng et al., 2022)."""

    def __init__(self, cut: Cut, size: Size, levels: int, *, linear: bool) -> None:
        super().__init__()
        hidden, features = size.hidden, 2 + len(cut.past) + len(cut.future)
        calendar, static = calendar_width(cut.frequency), len(cut.numbers) + len(cut.words)
        self.cut = cut
        self.read = nn.Linear(cut.segment * features + calendar, hidden)
        self.lstm = LSTM(hidden, hidden, batch_first=True)
        self.position = nn.Embedding(cut.segments[1], hidden)
        self.series = nn.Embedding(1 + len(cut.ids), hidden)
        nn.init.normal_(self.series.weight, std=0.02)
        self.ask = nn.Linear(cut.segment * (len(cut.future) + cut.bases) + calendar + static, hidden)
        self.dropout = nn.Dropout(size.dropout)
        self.head = QuantileHead(hidden, cut.segment, levels)
        self.line = nn.Linear(cut.context, cut.segments[1] * cut.segment, bias=False) if linear else None
        if self.line is not None:
            nn.init.zeros_(self.line.weight)
        self.gate = nn.Linear(hidden, cut.segment * cut.bases)
        nn.init.zeros_(self.gate.weight)
        with torch.no_grad():
            self.gate.bias.copy_(torch.tensor(cut.trust).repeat(cut.segment))

    def forward(self, windows: Windows) -> Tensor:
        """Scaled quantiles [batch, steps, levels]."""
        cut, batch = self.cut, len(windows.series)
        read, written = cut.segments
        history = windows.history.reshape(batch, read, -1)  # [batch, segments read, segment * features]
        x = torch.cat([history, windows.calendar[:, :read]], dim=-1)
        _, (h, c) = self.lstm(torch.relu(self.read(x)))  # [1, batch, hidden]
        asked = self.questions(windows).reshape(1, batch * written, -1).transpose(0, 1)  # one step each
        state = (h.repeat_interleave(written, dim=1), c.repeat_interleave(written, dim=1))
        y, _ = self.lstm(asked, state)  # [batch * written, 1, hidden]
        y = self.dropout(y.reshape(batch, written, -1))
        residual = self.head(y).flatten(1, 2)  # [batch, steps, levels]
        mixture = self.gate(y).reshape(batch, written * cut.segment, cut.bases).softmax(-1)
        if self.line is not None:
            residual = residual + self.line(windows.history[..., 0]).unsqueeze(-1)
        return (mixture * windows.bases).sum(-1, keepdim=True) + residual

    def questions(self, windows: Windows) -> Tensor:
        """What the decoder is asked of each coming segment: where, when, for which series, under what plans."""
        batch, (read, written) = len(windows.series), self.cut.segments
        known = torch.cat([windows.ahead, windows.bases], dim=-1).reshape(batch, written, -1)
        static = windows.static.unsqueeze(1).expand(-1, written, -1)
        asked = self.ask(torch.cat([known, windows.calendar[:, read:], static], dim=-1))
        series = windows.series
        if self.training:
            hide = torch.rand(batch, device=series.device) < UNKNOWN_SHARE
            series = torch.where(hide, torch.zeros_like(series), series)
        return torch.relu(asked) + self.position.weight + self.series(series).unsqueeze(1)


class Members(nn.Module):
    """Several segment LSTMs. In training each sees its own share of the batch; asked, they answer with their mean.

    Every second one has the linear path: long smooth series want it, noisy ones do better without, the mean suits both.
    """

    def __init__(self, cut: Cut, size: Size, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            SegmentLSTM(cut, size, len(levels), linear=number % 2 == 1) for number in range(size.members)
        )
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32))

    def forward(self, windows: Windows) -> Tensor:
        """Scaled quantiles [batch, steps, levels]."""
        if not self.training:
            return torch.stack([member(windows) for member in self.members]).mean(0)
        count = len(self.members)
        shares = [member(windows.rows(slice(number, None, count))) for number, member in enumerate(self.members)]
        out = shares[0].new_empty((len(windows.series), *shares[0].shape[1:]))
        for number, share in enumerate(shares):
            out[number::count] = share
        return out
