"""LSTMLayer and LSTMStack as ONNX: every layer and direction a node of ONNX's LSTM operator.

That operator has peepholes. Coupled gates need no option of it: 1 - sigmoid(v) is sigmoid(-v), so an input gate with
the forget gate's weights negated is one minus the forget gate, in every runtime.
"""

from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from .layer import Cell, LSTMLayer
from .onnx_nodes import INT64, Nodes, as_iofg
from .stack import Connection, LSTMStack

# What ONNX's LSTM cannot say. Dropout and weight drop are for training alone.
_FOREIGN: Final = ("normalised", "exponential", "projection", "zoneout_h", "zoneout_c")


def file_of(module: LSTMLayer | LSTMStack, lengths: bool, state: bool) -> bytes:
    """The file's bytes. ValueError where the module has what ONNX's LSTM has not."""
    layers = [module] if isinstance(module, LSTMLayer) else list(module.layers)
    for number, layer in enumerate(layers):
        assert isinstance(layer, LSTMLayer)
        found = [name for name in _FOREIGN if getattr(layer.cell, name) != getattr(Cell(), name)]
        if found:
            raise ValueError(
                f"layer and direction {number} has {' and '.join(found)}, for which ONNX's LSTM operator has no place: "
                "torch.export.export takes any cell"
            )
    if isinstance(module, LSTMStack) and module.connection is not Connection.PLAIN:
        raise ValueError(f"{module.connection} is not written to ONNX: torch.export.export takes any connection")
    return _Graph(module, lengths, state).file()


@final
class _Graph:
    """The graph of one module."""

    def __init__(self, module: LSTMLayer | LSTMStack, lengths: bool, state: bool) -> None:
        alone = isinstance(module, LSTMLayer)
        self.layers: list[LSTMLayer] = [module] if alone else list(module.layers)  # pyright: ignore
        self.directions = 1 if alone else module.directions
        self.batch_first = False if alone else module.batch_first
        self.lengths, self.state = lengths, state
        self.graph = Nodes()
        self.add, self.constant, self.value = self.graph.add, self.graph.constant, self.graph.value

    def file(self) -> bytes:
        leading = ["batch", "time"] if self.batch_first else ["time", "batch"]
        inputs = [self.value("x", [*leading, self.layers[0].input_size])]
        x = self.add("Transpose", ["x"], "x_steps_first", perm=[1, 0, 2]) if self.batch_first else "x"
        if self.lengths:
            to = self.graph.make.np_dtype_to_tensor_dtype(np.dtype("int32"))
            self.add("Cast", ["lengths"], "lengths_int32", to=to)
        first, lasts = x, []
        for number in range(0, len(self.layers), self.directions):
            beside: list[str] = []
            for place in range(number, number + self.directions):
                layer = self.layers[place]
                if self.state:
                    inputs += [self.value(f"{name}0_{place}", ["batch", layer.hidden_size]) for name in "hc"]
                beside.append(self.layer(place, x, first))
                lasts += [self.value(f"{name}_n_{place}", ["batch", layer.hidden_size]) for name in "hc"]
            x = beside[0] if len(beside) == 1 else self.add("Concat", beside, f"layer{number}_y", axis=2)
        if self.batch_first:
            self.add("Transpose", [x], "y", perm=[1, 0, 2])
        else:
            self.add("Identity", [x], "y")
        if self.lengths:
            inputs.append(self.value("lengths", ["batch"], INT64))
        width = self.directions * self.layers[-1].hidden_size
        return self.graph.model(inputs, [self.value("y", [*leading, width]), *lasts])

    def layer(self, place: int, x: str, first: str) -> str:
        """One layer in one direction; its y [time, batch, hidden]. `first` is the graph's x, for its batch."""
        layer, name = self.layers[place], f"place{place}"
        before = [self.before(place, letter, first) for letter in "hc"]
        inputs = [x, *self.weights(layer, name), "lengths_int32" if self.lengths else "", *before]
        peephole = self.peephole(layer)
        if peephole is not None:
            inputs.append(self.constant(f"{name}_peephole", peephole.unsqueeze(0)))
        outputs = [f"{name}_y_apart", f"{name}_h_apart", f"{name}_c_apart"]
        direction = "reverse" if place % self.directions else "forward"
        self.add("LSTM", inputs, outputs, hidden_size=layer.hidden_size, direction=direction)
        for letter, last, given in zip("hc", outputs[1:], before, strict=True):
            if self.lengths and given:  # the standard leaves open what a row of no steps ends with; we do not
                last = self.add("Where", [self.graph.some_steps(), last, given], f"{last}_or_before")
            self.add("Squeeze", [last, self.constant("first_axis", [0])], f"{letter}_n_{place}")
        return self.add("Squeeze", [outputs[0], self.constant("second_axis", [1])], f"{name}_y")

    def before(self, place: int, letter: str, first: str) -> str:
        """The state before the first step, [1, batch, hidden]; "" for zeros."""
        learnt: Tensor | None = getattr(self.layers[place], f"{letter}0")
        name = f"{letter}0_{place}_apart"
        if self.state:
            return self.add("Unsqueeze", [f"{letter}0_{place}", self.constant("first_axis", [0])], name)
        if learnt is None:
            return ""
        if not self.graph.has("batch_size"):
            self.add("Shape", [first], "batch_size", start=1, end=2)
        one, units = self.constant("one", [1]), self.constant(f"{name}_units", [learnt.numel()])
        shape = self.add("Concat", [one, "batch_size", units], f"{name}_shape", axis=0)
        return self.add("Expand", [self.constant(f"{name}_learnt", learnt.view(1, 1, -1)), shape], name)

    def weights(self, layer: LSTMLayer, name: str) -> list[str]:
        """W, R and both biases behind each other, each for one direction."""
        w, r = (as_iofg(self.four(layer, t)).unsqueeze(0) for t in (layer.weight_ih, layer.weight_hh))
        found = [self.constant(f"{name}_w", w), self.constant(f"{name}_r", r), ""]
        if layer.bias is not None:
            bias = as_iofg(self.four(layer, layer.bias))
            found[2] = self.constant(f"{name}_b", torch.cat([bias, torch.zeros_like(bias)]).unsqueeze(0))
        return found

    def four(self, layer: LSTMLayer, weight: Tensor) -> Tensor:
        """Rows of all gates, i f g o; of a coupled cell, which has f g o, those of i are those of f negated."""
        return torch.cat([-weight[: layer.hidden_size], weight]) if layer.cell.coupled else weight

    def peephole(self, layer: LSTMLayer) -> Tensor | None:
        """In ONNX's order, i o f."""
        if layer.peephole is None:
            return None
        i, f, o = layer.peephole.chunk(3)
        return torch.cat([-f if layer.cell.coupled else i, o, f])
