"""The native engine by ctypes: kernels/holdfast.h spoken in Python. Knows nothing of autograd; functional.py does that.

Every tensor is checked before its address leaves Python: a wrong shape, dtype, device or stride is a ValueError here,
never a stray read there.
"""

import ctypes
import struct
import threading
from typing import Final, NamedTuple

import torch
from torch import Tensor

from . import threads
from .cells import PLAIN, Variant, Weights, seed_number
from .library import available, has_isa, isa, isas, loaded, multiplies_bfloat16, peak_flops, use_isa, why_not, words_for
from .pages import Pool, Scratch, in_memory

__all__ = [
    "available",
    "backward",
    "forward",
    "has_isa",
    "isa",
    "isas",
    "multiplies_bfloat16",
    "peak_flops",
    "precision",
    "use_isa",
    "why_not",
]

# The argument structures of holdfast.h, all of whose fields are 64 bits wide but for the two probabilities.
_LSTM: Final = struct.Struct("@25q")
_BUFFERS: Final = struct.Struct("@2q")
_GRADIENTS: Final = struct.Struct("@19q")
_CELL: Final = struct.Struct("@3q2fqQ6qfi")
_PEEPHOLE, _COUPLED, _EXPONENTIAL, _NORMALISED = 1, 2, 4, 8
_FLOAT32, _BFLOAT16, _BFLOAT16X3 = 0, 1, 3
# Where three products of bf16 are faster than one of float32: AVX512-BF16 only doubles its rate.
_TRIPLE_PAYS = ("amx", "amx_emulated")


class _Room(threading.local):
    """Per thread: the argument structures and the scratch."""

    def __init__(self) -> None:
        self.lstm = ctypes.create_string_buffer(_LSTM.size)
        self.cell = ctypes.create_string_buffer(_CELL.size)
        self.gradients = ctypes.create_string_buffer(_GRADIENTS.size)
        self.lstm_at = ctypes.addressof(self.lstm)
        self.cell_at = ctypes.addressof(self.cell)
        self.gradients_at = ctypes.addressof(self.gradients)
        self.scratch = Scratch()


_pool = Pool()
_room = _Room()


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    if tensor.dtype is not dtype or not tensor.is_cpu or tensor.layout is not torch.strided:
        raise ValueError(
            f"{name} came as {tensor.dtype} on {tensor.device} ({tensor.layout}); expected {dtype} on cpu (strided)"
        )
    if tensor.shape != shape:
        raise ValueError(f"{name} came with shape {list(tensor.shape)}; expected {list(shape)}")


def _adjacent(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor, row-major without gaps."""
    _check(name, tensor, shape)
    tensor = in_memory(tensor)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _rows(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor with adjacent elements in its last axis; the other strides may be anything. Packed or not."""
    _check(name, tensor, shape)
    tensor = in_memory(tensor)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def like(x: Tensor, width: int) -> Tensor:
    """An empty tensor with x's leading axes, in x's memory order."""
    if x.dim() == 2:
        return x.new_empty((x.shape[0], width))
    steps, batch, _ = x.shape
    if x.stride(0) < x.stride(1):
        return x.new_empty((batch, steps, width)).transpose(0, 1)
    return x.new_empty((steps, batch, width))


def _strides(rows: Tensor) -> tuple[int, ...]:
    """How far it is to the next step and to the next row; packed there is one row-step after the other."""
    return rows.stride()[:2] if rows.dim() == 3 else (0, rows.stride(0))


def precision(bfloat16: bool) -> int:
    """What a call in bfloat16, or torch.set_float32_matmul_precision, asks for, where it pays: a holdfast_precision."""
    if bfloat16:
        return _BFLOAT16
    wanted = torch.get_float32_matmul_precision()
    if wanted == "high":
        return _BFLOAT16X3 if isa() in _TRIPLE_PAYS else _FLOAT32
    return _BFLOAT16 if wanted == "medium" else _FLOAT32


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _raise_if(code: int) -> None:
    if code:
        raise ValueError(words_for(code))


def _packed_size(x: Tensor, lengths: Tensor) -> tuple[int, int]:
    """Steps and rows of a packed batch."""
    _check("lengths", lengths, (lengths.numel(),), torch.int64)
    if x.shape[0] != int(lengths.sum()):
        raise ValueError(f"packed x has {x.shape[0]} row-steps; these lengths add up to {int(lengths.sum())}")
    return int(lengths.max()) if lengths.numel() else 0, lengths.numel()


class _Inputs:
    """What forward and backward have in common, checked."""

    def __init__(
        self,
        x: Tensor,
        weights: Weights,
        h0: Tensor | None,
        c0: Tensor | None,
        lengths: Tensor | None,
        variant: Variant,
    ) -> None:
        w, r, _, p, peephole, *norms = weights
        self.packed = lengths is not None and x.dim() == 2
        if (x.dim() != 3 and not self.packed) or r.dim() != 2:
            raise ValueError(
                f"x and w_recurrent came with {x.dim()} and {r.dim()} axes; "
                "expected 3 ([time, batch, features]), or 2 and lengths (packed), and 2"
            )
        *self.leading, self.features = x.shape
        self.steps, self.batch = self.leading if lengths is None or not self.packed else _packed_size(x, lengths)
        self.units = r.shape[1] if p is None else p.shape[-1]
        self.width = r.shape[1]  # of h
        if self.features < 1 or self.units < 1:
            raise ValueError(f"got {self.features} features and {self.units} units; expected at least one of each")
        self.x = _rows("x", x, x.shape)
        if w is None and self.features != 4 * self.units:
            raise ValueError(f"ready sums of {self.units} units came with shape {list(x.shape)}; expected 4 * units")
        self.w_input = None if w is None else _adjacent("w_input", w, (4 * self.units, self.features))
        self.w_recurrent = _adjacent("w_recurrent", r, (4 * self.units, self.width))
        self.projection = None if p is None else _adjacent("projection", p, (self.width, self.units))
        self.peephole = None if peephole is None else _adjacent("peephole", peephole, (3 * self.units,))
        wide = (4 * self.units,), (4 * self.units,), (self.units,), (self.units,)
        names = ("gain_x", "gain_h", "gain_c", "bias_c")
        missing = [name for name, t in zip(names, norms, strict=True) if t is None]
        if 0 < len(missing) < len(names):
            raise ValueError(f"a normalised cell needs {', '.join(names)}; {' and '.join(missing)} are missing")
        given = zip(names, norms, wide, strict=True)
        self.norms = [None if t is None else _adjacent(name, t, shape) for name, t, shape in given]
        mask = variant.h_mask
        self.variant = variant
        self.h_mask = None if mask is None else _adjacent("h_mask", mask, (self.batch, self.width))
        self.h_shape = (self.batch, self.width)
        self.c_shape = (3, self.batch, self.units) if variant.exponential else (self.batch, self.units)
        self.h0 = None if h0 is None else _adjacent("h0", h0, self.h_shape)
        self.c0 = None if c0 is None else _adjacent("c0", c0, self.c_shape)
        self.lengths = lengths
        if lengths is not None:
            _check("lengths", lengths, (self.batch,), torch.int64)
            self.lengths = in_memory(lengths).contiguous()

    def write(self, reverse: bool, bfloat16: bool, bias: Tensor | None, y: Tensor, last: tuple[int, int]) -> None:
        """Fill this thread's holdfast_lstm, in the order of its fields. What it says sizes the last two: buffers."""
        x = self.x
        _LSTM.pack_into(
            _room.lstm,
            0,
            self.steps,
            self.batch,
            self.features,
            self.units,
            threads.allowed(),
            reverse,
            x.data_ptr(),
            *_strides(x),
            _address(self.w_input),
            self.w_recurrent.data_ptr(),
            _address(bias),
            self.write_cell(),
            precision(bfloat16),
            _address(self.h0),
            _address(self.c0),
            _address(self.lengths),
            self.packed,
            y.data_ptr(),
            *_strides(y),
            *last,
            0,
            0,
        )

    def write_cell(self) -> int:
        """Fill this thread's holdfast_cell; its address, or 0 for the plain cell."""
        variant, zoneout = self.variant, self.variant.zoneout
        if variant.is_plain() and self.peephole is None and self.projection is None and self.norms[0] is None:
            return 0
        seed = seed_number(zoneout.seed)
        if not 0 <= seed < 2**64 or not variant.epsilon >= 0:
            raise ValueError(f"the seed {seed} must lie in 0..2^64 - 1, epsilon {variant.epsilon} not below 0")
        kind = (_PEEPHOLE if self.peephole is not None else 0) | (_COUPLED if variant.coupled else 0)
        _CELL.pack_into(
            _room.cell,
            0,
            kind | (_EXPONENTIAL if variant.exponential else 0) | (0 if self.norms[0] is None else _NORMALISED),
            _address(self.peephole),
            _address(self.h_mask),
            zoneout.h,
            zoneout.c,
            zoneout.seed is not None,
            seed,
            _address(self.projection),
            self.width,
            *map(_address, self.norms),
            variant.epsilon,
            0,
        )
        return _room.cell_at


def _hand_over(kept: Tensor | None, scratch: int) -> None:
    """The last two fields of holdfast_lstm."""
    _BUFFERS.pack_into(_room.lstm, _LSTM.size - _BUFFERS.size, _address(kept), scratch)


def forward(
    x: Tensor,
    weights: Weights,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    keep: bool,
    variant: Variant = PLAIN,
    bfloat16: bool = False,
    room: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One layer, one direction. Returns y, h_last, c_last and what `backward` needs (None unless `keep`).

    x [time, batch, features], any strides; w_input [4 * units, features]; w_recurrent [4 * units, width];
    bias [4 * units]; projection [width, units]; peephole [3 * units]; h0 [batch, width]; c0 [batch, units], of the
    exponential cell [3, batch, units]; lengths int64 [batch]; gates in the order i f g o. Without a projection the
    width of h is units. y [time, batch, width] comes in x's memory order, zero past each row's length.
    Packed, as in torch's PackedSequence: x [sum of lengths, features] and y [sum of lengths, width].
    With `bfloat16` factors of products are rounded as in medium precision, whatever torch's switch says.
    What is kept has at least `room` floats.
    """
    library = loaded()
    given = _Inputs(x, weights, h0, c0, lengths, variant)
    bias = None if weights.bias is None else _adjacent("bias", weights.bias, (4 * given.units,))
    y = like(x, given.width)
    h_last, c_last = x.new_empty(given.h_shape), x.new_empty(given.c_shape)
    given.write(reverse, bfloat16, bias, y, (h_last.data_ptr(), c_last.data_ptr()))
    kept = _pool.take(max(room, library.kept_floats(_room.lstm_at))) if keep else None
    _hand_over(kept, _room.scratch.at_least(library.scratch_bytes(_room.lstm_at, 0)))
    _raise_if(library.forward(_room.lstm_at))
    return y, h_last, c_last, kept


def unpack_kept(kept: Tensor, weights: Weights, variant: Variant) -> Tensor:
    """i, f, g, o and c of every row-step, [row-steps, 5, hidden], from a `kept` buffer: step by step the rows still
    running, longest first."""
    units = weights.recurrent.shape[0] // 4
    wide, row_steps = int(kept[0]), int(kept[4])  # the header: see sign_kept in kernels/layout.h
    each = 7 if variant.exponential else 5 if weights.gain_h is None else 14
    blocks = -(-units // wide)
    found = kept[16 : 16 + row_steps * blocks * each * wide].view(row_steps, blocks, each, wide)[:, :, :5]
    return found.transpose(1, 2).reshape(row_steps, 5, blocks * wide)[:, :, :units]


class Gradients(NamedTuple):
    """Those of everything that went into `forward`."""

    x: Tensor | None
    weights: Weights
    h0: Tensor
    c0: Tensor


def backward(
    outer: tuple[Tensor | None, Tensor | None, Tensor | None],
    x: Tensor,
    weights: Weights,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    y: Tensor,
    kept: Tensor,
    *,
    reverse: bool,
    need_x: bool,
    variant: Variant = PLAIN,
    bfloat16: bool = False,
) -> Gradients:
    """Gradients, given those of y, h_last, c_last (`outer`; None is zero). That of x is None unless `need_x`.

    `y` and `kept` are what `forward` returned; they are only read, so this may be called again.
    """
    library = loaded()
    given = _Inputs(x, weights, h0, c0, lengths, variant)
    outputs = (*given.leading, given.width)
    y = _rows("y", y, outputs)
    dy = None if outer[0] is None else _rows("dy", outer[0], outputs)
    dh_last = None if outer[1] is None else _adjacent("dh_last", outer[1], given.h_shape)
    dc_last = None if outer[2] is None else _adjacent("dc_last", outer[2], given.c_shape)
    dx = like(x, given.features) if need_x else None
    found = Weights(*(None if t is None else x.new_empty(t.shape) for t in weights._replace(bias=None)))  # pyright: ignore[reportArgumentType]
    found = found._replace(bias=x.new_empty((4 * given.units,)))
    dh0, dc0 = x.new_empty(given.h_shape), x.new_empty(given.c_shape)
    given.write(reverse, bfloat16, None, y, (0, 0))
    needed = library.kept_floats(_room.lstm_at)
    kept = kept[:needed] if kept.numel() > needed else kept
    _check("kept", kept, (needed,))
    _hand_over(kept, _room.scratch.at_least(library.scratch_bytes(_room.lstm_at, 1)))
    _GRADIENTS.pack_into(
        _room.gradients,
        0,
        _address(dy),
        *((0, 0) if dy is None else _strides(dy)),
        _address(dh_last),
        _address(dc_last),
        _address(dx),
        *((0, 0) if dx is None else _strides(dx)),
        _address(found.input),
        found.recurrent.data_ptr(),
        _address(found.bias),
        dh0.data_ptr(),
        dc0.data_ptr(),
        _address(found.peephole),
        _address(found.projection),
        *map(_address, found[5:]),
    )
    _raise_if(library.backward(_room.lstm_at, _room.gradients_at))
    return Gradients(dx, found, dh0, dc0)
