"""LSTMStack: layers of any widths and any cells, in one or both directions, plainly stacked, residual or highway."""

from collections.abc import Sequence
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from .cells import State
from .functional import check_lengths
from .gates import Gates
from .layer import PLAIN_CELL, Cell, LSTMLayer


class Connection(Enum):
    """How a layer's output meets its input."""

    PLAIN = "plain"
    RESIDUAL = "residual"  # y + x (He et al., CVPR 2016); where the widths differ, y + S x with S learnt
    HIGHWAY = "highway"  # t * y + (1 - t) * x, t = sigmoid(T x + b) (Srivastava, Greff & Schmidhuber, NeurIPS 2015)


class Skip(nn.Module):
    """A residual or highway connection around one layer."""

    def __init__(self, inputs: int, outputs: int, connection: Connection) -> None:
        super().__init__()
        self.reshape = nn.Linear(inputs, outputs, bias=False) if inputs != outputs else None
        self.transform = nn.Linear(inputs, outputs) if connection is Connection.HIGHWAY else None
        if self.transform is not None:
            nn.init.constant_(self.transform.bias, -1.0)  # begins by carrying, as the paper advises

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        carried = x if self.reshape is None else self.reshape(x)
        if self.transform is None:
            return y + carried
        return torch.lerp(carried, y, self.transform(x).sigmoid())


def without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [time, batch, ...] with zeros past each row's length."""
    if lengths is None:
        return x
    runs = torch.arange(x.shape[0]).unsqueeze(1) < lengths  # [time, batch]
    return torch.where(runs.unsqueeze(-1).to(x.device), x, torch.zeros_like(x))


@final
class LSTMStack(nn.Module):
    """A stack of recurrent layers.

    Args:
        input_size: features of x.
        hidden_sizes: units of each layer, in order.
        cell: the variant of all layers; or one for each.
        bidirectional: every layer runs both ways; its outputs stand side by side, forwards first.
        batch_first: x and y are [batch, time, ...] instead of [time, batch, ...].
        dropout: of every layer's input, in training: the same features for a whole sequence (Gal & Ghahramani 2016).
        connection: around every layer.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        cell: Cell | Sequence[Cell] = PLAIN_CELL,
        *,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        connection: Connection = Connection.PLAIN,
    ) -> None:
        super().__init__()
        cells = [cell] * len(hidden_sizes) if isinstance(cell, Cell) else list(cell)
        if not hidden_sizes or len(cells) != len(hidden_sizes):
            raise ValueError(f"{len(hidden_sizes)} hidden_sizes and {len(cells)} cells; expected as many, at least one")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability below 1, not {dropout}")
        self.batch_first, self.dropout, self.connection = batch_first, dropout, connection
        self.directions = 2 if bidirectional else 1
        layers: list[LSTMLayer] = []
        skips: list[nn.Module] = []
        for hidden, own in zip(hidden_sizes, cells, strict=True):
            pair = [LSTMLayer(input_size, hidden, own) for _ in range(self.directions)]
            outputs = sum(layer.width for layer in pair)
            skips.append(nn.Identity() if connection is Connection.PLAIN else Skip(input_size, outputs, connection))
            layers += pair
            input_size = outputs
        self.layers = nn.ModuleList(layers)  # layer by layer, forwards before backwards
        self.skips = nn.ModuleList(skips)
        self.output_size = input_size

    def forward(
        self,
        x: Tensor,
        states: Sequence[State | tuple[Tensor, Tensor]] | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, list[State]]:
        """Run the stack.

        Args:
            x: [time, batch, input_size], or [batch, time, input_size] with batch_first.
            states: one for each layer and direction, as returned; None: the initial ones.
            lengths: [batch] int64 on the CPU: how many steps each row really has.
            resets: bool on the CPU, laid out as x's first two axes: where the memory is cleared before a step.

        Returns:
            y, like x but output_size wide, zero past a row's length; and the state of every layer and direction after
            each row's own last step.
        """
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  users do
            raise ValueError(
                f"x must be a tensor; of rows of unequal length, padded with lengths=, not a {type(x).__name__}"
            )
        if states is not None and any(isinstance(state, Tensor) for state in states):
            raise ValueError("states must be a list of (h, c), one for each layer and direction, not torch's (h, c)")
        if resets is not None and self.directions == 2:
            raise ValueError("resets go with forward time only, not with a bidirectional stack")
        if states is not None and len(states) != len(self.layers):
            raise ValueError(f"{len(states)} states came for {len(self.layers)} layers and directions")
        if x.dim() != 3:
            raise ValueError(f"x must have three axes (time, batch, features), not {list(x.shape)}")
        if self.batch_first:
            x, resets = x.transpose(0, 1), None if resets is None else resets.T
        if lengths is not None:
            check_lengths(lengths, x)
        after: list[State] = []
        for number, skip in enumerate(self.skips):
            # A layer never reads what stands past a row's end, but a skip does.
            x = self.drop(without_padding(x, lengths) if isinstance(skip, Skip) else x)
            outputs: list[Tensor] = []
            for direction in range(self.directions):
                place = number * self.directions + direction
                before = None if states is None else states[place]
                y, last = self.layers[place](x, before, lengths=lengths, reverse=direction == 1, resets=resets)
                outputs.append(y)
                after.append(last)
            y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            x = skip(x, y) if isinstance(skip, Skip) else y
        if self.connection is not Connection.PLAIN:
            x = without_padding(x, lengths)
        return (x.transpose(0, 1) if self.batch_first else x), after

    def drop(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        return x * dropout(x.new_ones(x.shape[1:]), self.dropout)  # [batch, features]: one mask for all steps

    def gates(self, x: Tensor, number: int, *, lengths: Tensor | None = None) -> Gates:
        """The gates of layer and direction `number`, each [time, batch, hidden], as evaluation has them."""
        if not 0 <= number < len(self.layers):
            raise ValueError(f"there are layers and directions 0 to {len(self.layers) - 1}, not {number}")
        seen: list[Tensor] = []
        layer = self.layers[number]
        assert isinstance(layer, LSTMLayer)
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                self(x, lengths=lengths)
                return layer.gates(seen[0], lengths=lengths, reverse=number % self.directions == 1)
        finally:
            hook.remove()
            for module, training in modes.items():
                module.training = training
