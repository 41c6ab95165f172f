"""The kernels' side of streams: kernels/holdfast.h's structures, and the memory in which weights and states stand."""

import ctypes
import time
from typing import Any, Final, final

import torch
from torch import Tensor

from . import library
from .pages import fresh_pages
from .stream_layers import Shape, Steppable, StreamWeights, begins_with, weights_of

PRECISIONS: Final = ("highest", "medium", "int8")  # in the order of holdfast_precision
BAD_SLOT: Final = 6
BUSY: Final = 7
# Up to so many bytes of weights a step takes some ten microseconds, no threads share it, and the interpreter's lock is
# kept: to get it back can take the five milliseconds for which another thread may compute before it is asked to stop.
KEEPS_THE_LOCK: Final = 1 << 20


@final
class _Streams(ctypes.Structure):
    """holdfast_streams."""

    _fields_ = [
        ("layers", ctypes.c_int64),
        ("features", ctypes.c_int64),
        ("shapes", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("slots", "precision", "threads")),
        ("memory", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("busy", ctypes.c_int64),
        ("engine", ctypes.c_void_p),
        ("h", ctypes.c_void_p),
        ("c", ctypes.c_void_p),
        ("h_row", ctypes.c_int64),
        ("c_row", ctypes.c_int64),
    ]


@final
class _Weights(ctypes.Structure):
    """holdfast_stream_weights."""

    _fields_ = [(name, ctypes.c_void_p) for name in StreamWeights._fields]


@final
class _Layer(ctypes.Structure):
    """holdfast_stream_layer."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("units", "projection", "kind", "connection")),
        *((name, ctypes.c_float) for name in ("zoneout_h", "zoneout_c", "epsilon")),
        ("unused", ctypes.c_int32),
    ]


@final
class Step(ctypes.Structure):
    """holdfast_step."""

    _fields_ = [
        ("streams", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("x_row", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
    ]


@final
class Calls:
    """The library's entries for streams. Addresses are passed as ctypes.byref has them, which costs least per call."""

    def __init__(self) -> None:
        releasing, keeping = ctypes.CDLL(library.path()), ctypes.PyDLL(library.path())
        self.bytes = self._entry(releasing, "holdfast_streams_bytes")
        self.lay_out = self._entry(releasing, "holdfast_streams_lay_out")
        self.pack = self._entry(releasing, "holdfast_streams_pack")
        self.step = self._entry(releasing, "holdfast_streams_step")
        self.step_keeping_the_lock = self._entry(keeping, "holdfast_streams_step")

    def _entry(self, library: ctypes.CDLL, name: str) -> Any:
        entry = library[name]
        entry.restype = ctypes.c_int64
        return entry


@final
class Memory:
    """Packed weights, the states of all slots, and which of the slots are open."""

    def __init__(self, shapes: list[Shape], slots: int, precision: int, threads: int) -> None:
        self.calls = Calls()
        self.threads = threads
        self.open = (ctypes.c_ubyte * slots)()
        self.shapes = shapes
        self._layers = (_Layer * len(shapes))(*((*shape[1:], 0) for shape in shapes))
        self._streams = _Streams(
            len(shapes), shapes[0].features, ctypes.addressof(self._layers), slots, precision, threads
        )
        size = int(self.calls.bytes(ctypes.byref(self._streams)))
        if size < 0:
            raise ValueError(library.words_for(-size))
        self._pages, self._offset = fresh_pages(size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self._streams.memory = start + self._offset
        self._streams.open = ctypes.addressof(self.open)
        self._check(self.calls.lay_out(ctypes.byref(self._streams)))
        # Rows of all layers are as long as the widest one's; a layer's own begin them.
        self.h_rows = self._states("h", slots)
        self.c_rows = self._states("c", slots)
        self.h = [self.h_rows[n, :, : shape.width] for n, shape in enumerate(shapes)]  # each [slots, width]
        self.c = [self._memories(n, shape) for n, shape in enumerate(shapes)]  # each [memories, slots, hidden]

    @property
    def address(self) -> int:
        """Of holdfast_streams."""
        return ctypes.addressof(self._streams)

    def _states(self, name: str, slots: int) -> Tensor:
        """[layers, slots, a row and its padding], where the kernels have them."""
        row = int(getattr(self._streams, f"{name}_row"))
        offset = int(getattr(self._streams, name)) - int(self._streams.memory) + self._offset
        layers = len(self.shapes)
        flat = torch.frombuffer(self._pages, dtype=torch.float32, count=layers * slots * row, offset=offset)
        return flat.view(layers, slots, row)

    def _memories(self, layer: int, shape: Shape) -> Tensor:
        apart = -(-shape.hidden // 16) * 16
        rows = self.c_rows[layer, :, : shape.memories * apart].unflatten(1, (shape.memories, apart))
        return rows[:, :, : shape.hidden].transpose(0, 1)

    def _check(self, code: int) -> None:
        if code:
            raise ValueError(library.words_for(code))

    def pack(self, lstm: Steppable) -> None:
        """Copy the weights into the order in which steps read them."""
        for layer, shape in enumerate(self.shapes):
            tensors = weights_of(lstm, layer, shape)  # alive until they are packed
            weights = _Weights(*(None if t is None else t.data_ptr() for t in tensors))
            self._check(self.calls.pack(ctypes.byref(self._streams), ctypes.c_int64(layer), ctypes.byref(weights)))
        self._beginning = [begins_with(lstm, layer) for layer in range(len(self.shapes))]

    def clear(self, slots: "int | Tensor | slice") -> None:
        """States to begin with; zero in their padding: a NaN there would do no harm, but slow some processors down."""
        self.h_rows[:, slots] = 0
        self.c_rows[:, slots] = 0
        for layer, (h, c) in enumerate(self._beginning):
            if h.any() or c.any():
                self.h[layer][slots] = h
                self.c[layer][:, slots] = c if isinstance(slots, int) else c.unsqueeze(1)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """States of these slots into those; all are read before any is written."""
        for rows in (self.h_rows, self.c_rows):
            rows.index_copy_(1, targets, rows.index_select(1, sources))

    def new_step(self, rows: int, x: int, features: int, slots: int, y: Tensor) -> Step:
        """A step's arguments. Whoever holds it must hold this memory and what the addresses lead to."""
        return Step(ctypes.addressof(self._streams), rows, x, features, slots or None, y.data_ptr())


def read_speed(size: int) -> float:
    """Bytes per second at which one thread reads `size` bytes again and again: the roof for a single stream's step."""
    read = ctypes.CDLL(library.path())["holdfast_read"]
    read.restype = ctypes.c_int64
    read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    pages, offset = fresh_pages(size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + offset
    ctypes.memset(start, 0, size)
    rounds, best = max(1, (20 << 20) // size), 0.0
    for _ in range(15):
        begin = time.perf_counter()
        done = read(start, size // 4, rounds)
        best = max(best, done / (time.perf_counter() - begin))
    return best
