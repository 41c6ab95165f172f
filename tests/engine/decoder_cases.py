"""The attention decoder as training code in torch has it, and how ours is driven in the tests."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast import LSTM, Cell, Connection, LSTMStack
from holdfast.engine.decoder import DecoderStep
from holdfast.engine.stream import Precision

from .stream_cases import inputs

WORDS, EMBEDDED, HIDDEN, REMEMBERED, COMBINED = 101, 5, 21, 9, 7


@dataclass
class Network:
    """The decoder as training code in torch has it."""

    lstm: nn.LSTM | LSTMStack
    embedding: Tensor
    combine: nn.Linear
    output: nn.Linear

    def double(self) -> "Network":
        """A copy in float64."""
        parts = copy.deepcopy((self.lstm, self.combine, self.output))
        lstm, combine, output = (part.double() for part in parts)
        return Network(lstm, self.embedding.double(), combine, output)

    def step(self, token: int, source: tuple[Tensor, Tensor], fed: Tensor, state: object) -> tuple[Tensor, ...]:
        """One row in its own precision: log-probabilities, alpha, a, and the LSTM's state."""
        keys, values = source
        x = torch.cat([self.embedding[token], fed])
        y, state = self.lstm(x[None, None], state)
        s = y[0, 0]
        alpha = (keys @ s).softmax(0)
        a = self.combine(torch.cat([alpha @ values, s])).tanh()
        return self.output(a).log_softmax(-1), alpha, a, state  # pyright: ignore[reportReturnType]


def network(kind: str = "torch", words: int = WORDS, hidden: int = HIDDEN, bias: bool = True) -> Network:
    torch.manual_seed(0)
    features = EMBEDDED + COMBINED
    lstm: nn.LSTM | LSTMStack = LSTM(features, hidden, num_layers=2)
    if kind == "stack":
        cells = [Cell(peephole=True, learnt_state=True), Cell(exponential=True, projection=11)]
        lstm = LSTMStack(features, [hidden, hidden + 3], cells, connection=Connection.HIGHWAY)
    width = 11 if kind == "stack" else hidden
    combine, output = nn.Linear(REMEMBERED + width, COMBINED, bias), nn.Linear(COMBINED, words, bias)
    return Network(lstm.eval(), torch.randn(words, EMBEDDED), combine, output.requires_grad_(False))


def made(net: Network, slots: int = 6, precision: Precision = "highest", threads: int | None = None) -> DecoderStep:
    return DecoderStep(
        net.lstm, net.embedding, net.combine, net.output, slots=slots, precision=precision, threads=threads
    )


def sources_of(step: DecoderStep, lengths: tuple[int, ...] = (3, 17, 1)) -> dict[int, tuple[Tensor, Tensor]]:
    """Sources of these lengths, by handle."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for n, length in enumerate(lengths):
        pair = inputs(length, step.streams.width, seed=n), inputs(length, REMEMBERED, seed=9 + n)
        found[step.open_source(*pair)] = pair
    return found
