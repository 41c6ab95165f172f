"""An LSTM stack as an ONNX file, for runtimes without Python: the graph is written here, node by node.

ONNX's own LSTM operator (https://onnx.ai/onnx/operators/onnx__LSTM.html) computes a layer; it has the gates in the
order i, o, f, g and both directions in one node. It has no projection: such layers become a Scan over the steps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import durable, onnx_stack
from .layer import LSTMLayer
from .onnx_nodes import Nodes, as_iofg
from .stack import LSTMStack


def export_onnx(
    module: nn.LSTM | LSTMLayer | LSTMStack, path: str | Path, *, lengths: bool = True, state: bool = True
) -> None:
    """Write a stack of LSTM layers to an ONNX file, whole or not at all. The same weights give the same bytes.

    The graph's inputs are x, float32 in the module's own layout ([time, batch, features], or [batch, time, features]
    with batch_first); with `state` h0 and c0 as torch has them; with `lengths` int64 [batch], how many steps each row
    really has, 0 allowed. Its outputs are y, h_n and c_n in torch's shapes: y is zero past a row's length, the state is
    the one after the row's own last step. Time and batch may be of any size. Dropout is left out, as in evaluation.

    Of an LSTMLayer or LSTMStack the states are h0_0, c0_0, h0_1... [batch, units], one pair for each layer and
    direction, forwards first, as the module itself has them, and the outputs y, h_n_0, c_n_0, h_n_1...

    Args:
        module: a holdfast.LSTM or torch.nn.LSTM: any depth, one direction or two, projected or not. An LSTMLayer or an
            LSTMStack of plain connections, with peepholes, coupled gates and learnt states; other cells ONNX's LSTM
            operator cannot express.
        path: where to.
        lengths: whether the graph takes lengths; without, every row has all steps.
        state: whether the graph takes h0 and c0; without, they are zeros, or what has been learnt.

    Raises:
        ValueError: the weights are not float32, or the module is of a kind that ONNX's LSTM cannot express.
        ModuleNotFoundError: onnx is missing: pip install "holdfast[onnx]".
        OSError: the file cannot be written; what was there before still is.
    """
    if not isinstance(module, nn.LSTM | LSTMLayer | LSTMStack):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"export_onnx takes an LSTM, LSTMLayer or LSTMStack, not a {type(module).__name__}; "
            "for a whole model see torch.onnx.export and docs/guide/export.md"
        )
    wrong = {str(parameter.dtype) for parameter in module.parameters()} - {"torch.float32"}
    if wrong:
        raise ValueError(
            f"export_onnx writes float32 graphs; this module has {', '.join(sorted(wrong))}: .float() first"
        )
    if isinstance(module, nn.LSTM):
        file = _Graph(module, lengths, state).model()
    else:
        file = onnx_stack.file_of(module, lengths, state)
    durable.write(Path(path), file)


class _Graph:
    """A graph under construction: nodes and constants, one name for each result."""

    def __init__(self, module: nn.LSTM, lengths: bool, state: bool) -> None:
        self.graph = Nodes()
        self.make, self.add, self.constant, self.has = (
            self.graph.make,
            self.graph.add,
            self.graph.constant,
            self.graph.has,
        )
        self.module, self.lengths, self.state = module, lengths, state
        self.directions = 2 if module.bidirectional else 1
        self.shown = module.proj_size or module.hidden_size

    def model(self) -> bytes:
        """The whole file."""
        make, module = self.make, self.module
        steps_first = not module.batch_first
        x = "x" if steps_first else self.add("Transpose", ["x"], "x_steps_first", perm=[1, 0, 2])
        if self.lengths:
            self.add("Cast", ["lengths"], "lengths_int32", to=make.np_dtype_to_tensor_dtype(np.dtype("int32")))
        befores = [self.before(name) for name in ("h0", "c0")] if self.state else None
        layers = self.projected_layer if module.proj_size else self.layer
        lasts: list[tuple[str, str]] = []
        for layer in range(module.num_layers):
            before = None if befores is None else (befores[0][layer], befores[1][layer])
            x, h, c = layers(layer, x, before)
            lasts.append((h, c))
        self.add("Identity" if steps_first else "Transpose", [x], "y", **({} if steps_first else {"perm": [1, 0, 2]}))
        self.add("Concat", [h for h, _ in lasts], "h_n", axis=0)
        self.add("Concat", [c for _, c in lasts], "c_n", axis=0)
        return self.graph.model(*self.signature())

    def signature(self) -> tuple[list[Any], list[Any]]:
        """Names, types and shapes of inputs and outputs."""
        module, places = self.module, self.module.num_layers * self.directions
        leading = ["batch", "time"] if module.batch_first else ["time", "batch"]
        h, c = [places, "batch", self.shown], [places, "batch", module.hidden_size]
        shapes = {"x": [*leading, module.input_size]} | ({"h0": h, "c0": c} if self.state else {})
        inputs = [self.make.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]  # 1: float32
        if self.lengths:
            inputs.append(self.make.make_tensor_value_info("lengths", 7, ["batch"]))  # 7: int64
        shapes = {"y": [*leading, self.directions * self.shown], "h_n": h, "c_n": c}
        return inputs, [self.make.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]

    def before(self, name: str) -> list[str]:
        """A given state [layers * directions, batch, units], cut into its layers."""
        layers = self.module.num_layers
        parts = [f"{name}_layer{layer}" for layer in range(layers)]
        self.add("Split", [name, self.constant(f"{name}_parts", [self.directions] * layers)], parts, axis=0)
        return parts

    def weights(self, layer: int, kind: str) -> list[torch.Tensor]:
        """A layer's weights of one kind, one for each direction."""
        suffixes = ["", "_reverse"][: self.directions]
        return [getattr(self.module, f"{kind}_l{layer}{suffix}").detach() for suffix in suffixes]

    def layer(self, layer: int, x: str, before: tuple[str, str] | None) -> tuple[str, str, str]:
        """One layer as ONNX's LSTM: y [time, batch, directions * hidden], h and c [directions, batch, hidden]."""
        name, module = f"layer{layer}", self.module

        def stacked(*kinds: str) -> str:  # [directions, 4 * hidden, ...], or both biases behind each other
            each = zip(*(map(as_iofg, self.weights(layer, kind)) for kind in kinds), strict=True)
            return self.constant(f"{name}_{kinds[0]}", torch.stack([torch.cat(parts) for parts in each]))

        inputs = [x, stacked("weight_ih"), stacked("weight_hh"), stacked("bias_ih", "bias_hh") if module.bias else ""]
        inputs += ["lengths_int32" if self.lengths else "", *(before or ())]
        outputs = [f"{name}_y_apart", f"{name}_h", f"{name}_c"]
        direction = "bidirectional" if self.directions == 2 else "forward"
        self.add("LSTM", inputs, outputs, hidden_size=module.hidden_size, direction=direction)
        if self.lengths and before is not None:  # the standard leaves open what a row of no steps ends with; we do not
            some = self.graph.some_steps()
            for n, given in zip((1, 2), before, strict=True):
                outputs[n] = self.add("Where", [some, outputs[n], given], f"{outputs[n]}_or_before")
        # [time, directions, batch, hidden] -> [time, batch, directions, hidden] -> [time, batch, directions * hidden]
        self.add("Transpose", [outputs[0]], f"{name}_y_beside", perm=[0, 2, 1, 3])
        shape = self.constant(f"{name}_shape", [0, 0, self.directions * module.hidden_size])  # 0: as it is
        return self.add("Reshape", [f"{name}_y_beside", shape], f"{name}_y"), outputs[1], outputs[2]

    def projected_layer(self, layer: int, x: str, before: tuple[str, str] | None) -> tuple[str, str, str]:
        """One layer with projections, a Scan for each direction."""
        found: list[tuple[str, ...]] = []
        for direction in range(self.directions):
            name = f"layer{layer}_" + ("reverse" if direction else "forward")
            if before is None:
                states = [self.zeros(x, f"{name}_{n}0", size) for n, size in self.sizes()]
            else:
                places = self.constant(f"{name}_place", [direction])
                states = [self.add("Gather", [b, places], f"{b}_{name}_apart") for b in before]
                states = [self.add("Squeeze", [s, self.constant(f"{name}_axis", [0])], f"{s}_flat") for s in states]
            found.append(self.scan(layer, direction, name, x, states))
        ys, hs, cs = zip(*found, strict=True)
        name, axis = f"layer{layer}", self.constant(f"layer{layer}_first", [0])
        ends: list[str] = []
        for n, lasts in (("h", hs), ("c", cs)):
            apart = [self.add("Unsqueeze", [last, axis], f"{last}_apart") for last in lasts]
            ends.append(self.add("Concat", apart, f"{name}_{n}", axis=0))
        return self.add("Concat", ys, f"{name}_y", axis=2), ends[0], ends[1]

    def sizes(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("h", self.shown), ("c", self.module.hidden_size)

    def zeros(self, x: str, name: str, size: int) -> str:
        """Zeros [batch, size] for the batch of x [time, batch, features]."""
        self.add("Shape", [x], f"{name}_batch", start=1, end=2)
        self.add("Concat", [f"{name}_batch", self.constant(f"{name}_size", [size])], f"{name}_shape", axis=0)
        return self.add("ConstantOfShape", [f"{name}_shape"], name)

    def scan(self, layer: int, direction: int, name: str, x: str, states: list[str]) -> tuple[str, str, str]:
        """One direction as a Scan; what does not wait for h is computed for all steps at once, before."""
        kinds = ["weight_ih", "weight_hh", "weight_hr"] + (["bias_ih", "bias_hh"] if self.module.bias else [])
        w, r, p, *biases = (self.weights(layer, kind)[direction] for kind in kinds)
        hoisted = self.add(
            "MatMul", [x, self.constant(f"{name}_w", w.T)], f"{name}_hoisted"
        )  # [time, batch, 4 * hidden]
        if biases:
            hoisted = self.add("Add", [hoisted, self.constant(f"{name}_b", biases[0] + biases[1])], f"{name}_with_bias")
        self.constant(f"{name}_r", r.T)
        self.constant(f"{name}_p", p.T)
        rows = [hoisted, *([self.running(x)] if self.lengths else [])]
        outputs = [f"{name}_h", f"{name}_c", f"{name}_y"]
        ways = {"scan_input_directions": [direction] * len(rows), "scan_output_directions": [direction]}
        self.add("Scan", [*states, *rows], outputs, body=self.step(name), num_scan_inputs=len(rows), **ways)
        return outputs[2], outputs[0], outputs[1]

    def running(self, x: str) -> str:
        """Which rows run at which step: [time, batch, 1], made once."""
        if not self.has("running"):
            self.add("Shape", [x], "steps_axis", start=0, end=1)
            self.add("Squeeze", ["steps_axis", self.constant("only", [0])], "steps")
            self.add("Range", [self.constant("zero", 0), "steps", self.constant("one", 1)], "each_step")
            self.add("Unsqueeze", ["each_step", self.constant("behind", [1, 2])], "each_step_apart")  # [time, 1, 1]
            self.add("Unsqueeze", ["lengths", self.constant("around", [0, 2])], "lengths_apart")  # [1, batch, 1]
            self.add("Less", ["each_step_apart", "lengths_apart"], "running")
        return "running"

    def step(self, name: str) -> Any:
        """The body of the Scan: one step of the cell as in reference.py, the projection included."""
        make, outer, self.graph.nodes = self.make, self.graph.nodes, []
        try:
            self.add("MatMul", ["h", f"{name}_r"], "recurrent")
            self.add("Add", ["hoisted", "recurrent"], "sums")
            self.add("Split", ["sums"], ["i_sum", "f_sum", "g_sum", "o_sum"], axis=1)
            for gate, activation in zip("ifgo", ("Sigmoid", "Sigmoid", "Tanh", "Sigmoid"), strict=True):
                self.add(activation, [f"{gate}_sum"], gate)
            self.add("Add", [self.add("Mul", ["f", "c"], "held"), self.add("Mul", ["i", "g"], "let_in")], "c_new")
            shown = self.add("Mul", ["o", self.add("Tanh", ["c_new"], "c_shown")], "shown")
            self.add("MatMul", [shown, f"{name}_p"], "h_new")
            if self.lengths:  # a row that is over, or in reverse has not begun, keeps its state and shows nothing
                self.add("Where", ["runs", "h_new", "h"], "h_next")
                self.add("Where", ["runs", "c_new", "c"], "c_next")
                self.add("Where", ["runs", "h_new", self.constant("nothing", torch.zeros(()))], "y")
            else:
                for new, result in (("h_new", "h_next"), ("c_new", "c_next"), ("h_new", "y")):
                    self.add("Identity", [new], result)
            value = make.make_tensor_value_info
            sizes = {"h": self.shown, "c": self.module.hidden_size, "hoisted": 4 * self.module.hidden_size}
            inputs = [value(n, 1, ["batch", size]) for n, size in sizes.items()]
            inputs += [value("runs", 9, ["batch", 1])] if self.lengths else []  # 9: bool
            results = [
                value(n, 1, ["batch", size]) for n, size in zip(("h_next", "c_next"), sizes.values(), strict=False)
            ]
            results.append(value("y", 1, ["batch", self.shown]))
            return make.make_graph(self.graph.nodes, f"{name}_step", inputs, results)
        finally:
            self.graph.nodes = outer
