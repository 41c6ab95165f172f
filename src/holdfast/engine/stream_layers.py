"""What streams need to know of an LSTM, layer by layer: sizes, weights as the kernels take them, the first state."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .cells import PLAIN
from .layer import LSTMLayer
from .pages import in_memory
from .stack import Connection, LSTMStack, Skip

Steppable = nn.LSTM | LSTMLayer | LSTMStack

_CONNECTIONS: Final = {Connection.PLAIN: 0, Connection.RESIDUAL: 1, Connection.HIGHWAY: 2}


class Shape(NamedTuple):
    """One layer's. `kind` holds the bits of holdfast_cell in kernels/holdfast.h, `connection` a holdfast_connection."""

    features: int
    hidden: int
    projection: int = 0  # width of h, or 0: that of c
    kind: int = 0
    connection: int = 0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    epsilon: float = 0.0

    @property
    def width(self) -> int:
        """Of h."""
        return self.projection or self.hidden

    @property
    def memories(self) -> int:
        """How many numbers a unit remembers in c: the exponential cell three."""
        return 3 if self.kind & 4 else 1


class StreamWeights(NamedTuple):
    """One layer's weights, in the order of holdfast_stream_weights; adjacent float32."""

    w_input: Tensor  # [4 * hidden, features]
    w_recurrent: Tensor  # [4 * hidden, width of h]
    bias: Tensor | None = None  # [4 * hidden]
    projection: Tensor | None = None  # [width of h, hidden]
    peephole: Tensor | None = None  # [3 * hidden]
    gain_x: Tensor | None = None  # [4 * hidden]
    gain_h: Tensor | None = None  # [4 * hidden]
    gain_c: Tensor | None = None  # [hidden]
    bias_c: Tensor | None = None  # [hidden]
    reshape: Tensor | None = None  # [width of h, features]
    transform: Tensor | None = None  # [width of h, features]
    transform_bias: Tensor | None = None  # [width of h]


def check_steppable(lstm: Steppable) -> None:
    """ValueError where this is nothing that can be stepped."""
    if not isinstance(lstm, nn.LSTM | LSTMLayer | LSTMStack):
        raise ValueError(
            f"Streams take a torch.nn.LSTM, holdfast.LSTM, LSTMLayer or LSTMStack, not a {type(lstm).__name__}"
        )
    if (isinstance(lstm, nn.LSTM) and lstm.bidirectional) or (isinstance(lstm, LSTMStack) and lstm.directions == 2):
        raise ValueError("a bidirectional LSTM cannot be stepped: its second direction begins at the end")
    for name, parameter in lstm.named_parameters():
        if parameter.dtype != torch.float32 or not parameter.is_cpu:
            raise ValueError(f"{name} is {parameter.dtype} on {parameter.device}; streams take float32 on cpu")


def shapes_of(lstm: Steppable) -> list[Shape]:
    """The layers' shapes, from the first to the top."""
    if isinstance(lstm, LSTMLayer):
        return [_shape(lstm, 0)]
    if isinstance(lstm, LSTMStack):
        return [_shape(layer, _CONNECTIONS[lstm.connection]) for layer in _layers(lstm)]
    width = lstm.proj_size or lstm.hidden_size
    return [Shape(width if n else lstm.input_size, lstm.hidden_size, lstm.proj_size) for n in range(lstm.num_layers)]


def _layers(stack: LSTMStack) -> list[LSTMLayer]:
    return [layer for layer in stack.layers if isinstance(layer, LSTMLayer)]


def _shape(layer: LSTMLayer, connection: int) -> Shape:
    cell = layer.cell
    kind = cell.peephole + 2 * cell.coupled + 4 * cell.exponential + 8 * cell.normalised
    return Shape(
        layer.input_size,
        layer.hidden_size,
        cell.projection or 0,
        kind,
        connection,
        cell.zoneout_h,
        cell.zoneout_c,
        PLAIN.epsilon,
    )


def weights_of(lstm: Steppable, number: int, shape: Shape) -> StreamWeights:
    """One layer's weights, as evaluation has them, their shapes checked: the kernels go by them."""
    if isinstance(lstm, nn.LSTM):
        return _weights_of_torch(lstm, number, shape)
    layer = lstm if isinstance(lstm, LSTMLayer) else _layers(lstm)[number]
    training = layer.training
    layer.train(False)  # no weight drop
    given = layer.weights()
    layer.train(training)
    assert given.input is not None
    skip = lstm.skips[number] if isinstance(lstm, LSTMStack) else None
    around: tuple[Tensor | None, ...] = (None, None, None)
    if isinstance(skip, Skip):
        transform = skip.transform
        around = (
            None if skip.reshape is None else skip.reshape.weight,
            None if transform is None else transform.weight,
            None if transform is None else transform.bias,
        )
    weights = StreamWeights(given.input, *given[1:], *around)
    names = [f"layer {number}'s {name}" for name in StreamWeights._fields]
    return _adjacent(weights, names, shape)


def _weights_of_torch(lstm: nn.LSTM, number: int, shape: Shape) -> StreamWeights:
    def of(name: str) -> Tensor:
        return getattr(lstm, f"{name}_l{number}")

    bias = None
    if lstm.bias:
        for name in ("bias_ih", "bias_hh"):
            _check_shape(f"{name}_l{number}", of(name), (4 * shape.hidden,))
        bias = of("bias_ih") + of("bias_hh")
    projection = of("weight_hr") if lstm.proj_size else None
    weights = StreamWeights(of("weight_ih"), of("weight_hh"), bias, projection)
    names = [f"{name}_l{number}" for name in ("weight_ih", "weight_hh", "bias", "weight_hr")]
    return _adjacent(weights, names, shape)


def _check_shape(name: str, t: Tensor, expected: tuple[int, ...]) -> None:
    if t.shape != expected:
        raise ValueError(f"{name} came with shape {list(t.shape)}; expected {list(expected)}")


def _adjacent(weights: StreamWeights, names: list[str], shape: Shape) -> StreamWeights:
    rows, hidden, width, features = 4 * shape.hidden, shape.hidden, shape.width, shape.features
    expected = (
        *((rows, features), (rows, width), (rows,), (width, hidden), (3 * hidden,)),
        *((rows,), (rows,), (hidden,), (hidden,)),
        *((width, features), (width, features), (width,)),
    )
    found: list[Tensor | None] = []
    for n, (t, wanted) in enumerate(zip(weights, expected, strict=True)):
        if t is not None:
            _check_shape(names[n], t, wanted)
        found.append(None if t is None else in_memory(t.detach()).contiguous())
    return StreamWeights(*found)  # pyright: ignore[reportArgumentType]  the first two are none of the missing


def begins_with(lstm: Steppable, number: int) -> tuple[Tensor, Tensor]:
    """h [width] and c [memories, hidden] with which a stream begins: zero, or what has been learnt."""
    shape = shapes_of(lstm)[number]
    h, c = torch.zeros(shape.width), torch.zeros(shape.memories, shape.hidden)
    layer = lstm if isinstance(lstm, LSTMLayer) else _layers(lstm)[number] if isinstance(lstm, LSTMStack) else None
    if layer is None or layer.h0 is None or layer.c0 is None:
        return h, c
    with torch.no_grad():
        h.copy_(layer.h0)
        c[0].copy_(layer.c0)
    if shape.memories == 3:
        c[1] = 1  # as LSTMLayer.initial_state has it
    return h, c


def tensor_of(name: str, given: Any, dtype: torch.dtype) -> Tensor:
    """A tensor of this dtype on the CPU, from a tensor or an array; integers also from a list."""
    if isinstance(given, np.ndarray):
        if given.dtype.newbyteorder("=") == given.dtype and all(stride >= 0 for stride in given.strides):
            given = torch.from_numpy(given)
        else:
            raise ValueError(
                f"{name} came as an array of {given.dtype} with strides {given.strides}; make a copy of it"
            )
    elif dtype == torch.int64 and isinstance(given, Sequence):
        given = torch.tensor(given, dtype=dtype)
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} must be a {dtype} tensor or array, not a {type(given).__name__}")
    if given.dtype != dtype or not given.is_cpu or given.layout is not torch.strided:
        raise ValueError(f"{name} came as {given.dtype} on {given.device} ({given.layout}); expected {dtype} on cpu")
    return in_memory(given)
