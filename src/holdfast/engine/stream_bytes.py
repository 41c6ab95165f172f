"""A stream's state as bytes, checked when they come back. All of it with the lowest byte first.

Format 2: magic, format, number of layers, checksum of what follows; features, hidden, width of h and memories of c of
every layer; then of every layer h [width] and c [memories, hidden] in float32.

Format 1, of layers that are all alike, is still read: magic, format, layers, features, hidden, width, checksum of what
follows; then h [layers, width] and c [layers, hidden].
"""

import struct
import zlib
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .stream_layers import Shape

_MAGIC: Final = b"HFSTREAM"
_FORMAT: Final = 2
_HEADER: Final = struct.Struct("<8s3I")
_LAYER: Final = struct.Struct("<4I")
_FIRST_HEADER: Final = struct.Struct("<8s6I")

Layers = list[tuple[Tensor, Tensor]]  # h [width] and c [memories, hidden] of each


def _sizes(shape: Shape) -> tuple[int, int, int, int]:
    return shape.features, shape.hidden, shape.width, shape.memories


def state_to_bytes(layers: Layers, shapes: list[Shape]) -> bytes:
    table = b"".join(_LAYER.pack(*_sizes(shape)) for shape in shapes)
    body = table + b"".join(t.contiguous().numpy().astype("<f4").tobytes() for pair in layers for t in pair)
    return _HEADER.pack(_MAGIC, _FORMAT, len(shapes), zlib.crc32(body)) + body


def state_from_bytes(state: bytes, shapes: list[Shape]) -> Layers:
    """ValueError where these bytes are no state of such layers."""
    if len(state) < _HEADER.size or state[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"these {len(state)} bytes are not the state of a stream")
    _, version, count, checksum = _HEADER.unpack_from(state)
    if version == 1:
        return _from_first_format(state, shapes)
    if version != _FORMAT:
        raise ValueError(f"the state has format {version}; this Holdfast reads 1 to {_FORMAT}")
    ours = [_sizes(shape) for shape in shapes]
    if count != len(shapes):
        raise ValueError(f"the state is of {count} layers; this LSTM has {len(shapes)}")
    begin = _HEADER.size + count * _LAYER.size
    if len(state) < begin:
        raise ValueError(f"these {len(state)} bytes are not the state of a stream")
    theirs = list(_LAYER.iter_unpack(state[_HEADER.size : begin]))
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own != other:
            names = ("features", "units", "outputs", "memories")
            said = ", ".join(f"{size} {name}" for size, name in zip(other, names, strict=True))
            raise ValueError(f"layer {number} of the state has {said}; this LSTM's {', '.join(map(str, own))}")
    floats = sum(shape.width + shape.memories * shape.hidden for shape in shapes)
    _check_body(state, begin, floats)
    if zlib.crc32(state[_HEADER.size :]) != checksum:
        raise ValueError("the state is damaged: its checksum does not fit")
    return _cut(_values(state, begin), shapes)


def _from_first_format(state: bytes, shapes: list[Shape]) -> Layers:
    if len(state) < _FIRST_HEADER.size:
        raise ValueError(f"these {len(state)} bytes are not the state of a stream")
    _, _, *sizes, checksum = _FIRST_HEADER.unpack_from(state)
    first = shapes[0]
    ours = [len(shapes), first.features, first.hidden, first.width]
    alike = {(shape.hidden, shape.width, shape.memories) for shape in shapes} == {(first.hidden, first.width, 1)}
    if not alike or sizes != ours:
        raise ValueError(
            f"the state is of {sizes[0]} layers, {sizes[1]} features, {sizes[2]} units and {sizes[3]} outputs; "
            f"this LSTM has {', '.join(map(str, ours))}" + ("" if alike else ", and layers of different kinds")
        )
    layers, _, hidden, width = sizes
    _check_body(state, _FIRST_HEADER.size, layers * (hidden + width))
    if zlib.crc32(state[_FIRST_HEADER.size :]) != checksum:
        raise ValueError("the state is damaged: its checksum does not fit")
    values = _values(state, _FIRST_HEADER.size)
    h, c = values[: layers * width].view(layers, width), values[layers * width :].view(layers, 1, hidden)
    return list(zip(h, c, strict=True))


def _check_body(state: bytes, begin: int, floats: int) -> None:
    if len(state) - begin != 4 * floats:
        raise ValueError(f"the state is {len(state) - begin} bytes long after its header; expected {4 * floats}")


def _values(state: bytes, begin: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(state, dtype="<f4", offset=begin).astype(np.float32))


def _cut(values: Tensor, shapes: list[Shape]) -> Layers:
    sizes = [size for shape in shapes for size in (shape.width, shape.memories * shape.hidden)]
    pieces = iter(values.split(sizes))
    return [(next(pieces), next(pieces).view(shape.memories, shape.hidden)) for shape in shapes]
