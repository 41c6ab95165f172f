"""An ONNX graph under construction, node by node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch

if TYPE_CHECKING:
    from onnx import NodeProto

OPSET: Final = 17  # 2022; the LSTM operator is as it was in opset 14
IR_VERSION: Final = 8  # the format's version that came with it
FLOAT32, INT64, BOOL = 1, 7, 9  # onnx.TensorProto.DataType


@final
class Nodes:
    """Nodes and constants, one name for each result."""

    def __init__(self) -> None:
        try:
            from onnx import helper, numpy_helper
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(f'{missing}; for the ONNX export: pip install "holdfast[onnx]"') from None
        self.make, self.tensor = helper, numpy_helper.from_array
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        """A tensor of the file: floats as they are, whole numbers as int64."""
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, dtype=np.int64)
        self.constants[name] = self.tensor(np.ascontiguousarray(array), name)
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any) -> str:
        """A node; the name of its (first) result is returned."""
        outputs = [output] if isinstance(output, str) else list(output)
        self.nodes.append(self.make.make_node(operator, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def has(self, name: str) -> bool:
        return any(node.name == name for node in self.nodes)

    def value(self, name: str, shape: Sequence[int | str], kind: int = FLOAT32) -> Any:
        """Name, type and shape of an input or output; an axis of any size has a name."""
        return self.make.make_tensor_value_info(name, kind, list(shape))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """The whole file. The same graph gives the same bytes."""
        constants = list(self.constants.values())
        graph = self.make.make_graph(self.nodes, "lstm", list(inputs), list(outputs), initializer=constants)
        opset = self.make.make_opsetid("", OPSET)
        model = self.make.make_model(graph, producer_name="holdfast", opset_imports=[opset], ir_version=IR_VERSION)
        return model.SerializeToString(deterministic=True)

    def some_steps(self) -> str:
        """Which rows have any, by the input `lengths`: [batch, 1], made once."""
        if not self.has("some_steps"):
            self.add("Unsqueeze", ["lengths", self.constant("behind", [1])], "lengths_apart")
            self.add("Greater", ["lengths_apart", self.constant("none", 0)], "some_steps")
        return "some_steps"


def as_iofg(weight: torch.Tensor) -> torch.Tensor:
    """Rows from torch's order of gates to ONNX's."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, o, f, g])
