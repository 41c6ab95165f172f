"""The native engine by ctypes: kernels/holdfast.h spoken in Python. Knows nothing of autograd; functional.py does that.

Every tensor is checked before its address leaves Python: a wrong shape, dtype, device or stride is a ValueError here,
never a stray read there.
"""

import ctypes
import os
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

import holdfast

from . import threads
from .pages import Pool, Scratch

_ABI: Final = 2
_ISAS: Final = ("generic", "avx2", "avx512")

# The two argument structures of holdfast.h, all of whose fields are 64 bits wide.
_LSTM: Final = struct.Struct("@23q")
_BUFFERS: Final = struct.Struct("@2q")
_GRADIENTS: Final = struct.Struct("@13q")


class _Library:
    """The loaded library and its entries, argument types declared once."""

    def __init__(self, path: Path) -> None:
        self.dll = ctypes.CDLL(str(path))
        self.forward = self._entry("holdfast_lstm_forward", ctypes.c_void_p)
        self.backward = self._entry("holdfast_lstm_backward", ctypes.c_void_p, ctypes.c_void_p)
        self.burn = self._entry("holdfast_burn", ctypes.c_int64, ctypes.c_int64)
        self.kept_floats = self._entry("holdfast_kept_floats", ctypes.c_void_p)
        self.scratch_bytes = self._entry("holdfast_scratch_bytes", ctypes.c_void_p, ctypes.c_int64)
        self.use_isa = self._entry("holdfast_use_isa", ctypes.c_char_p)
        self.has_isa = self._entry("holdfast_has_isa", ctypes.c_char_p)
        self.isa = self._entry("holdfast_isa", result=ctypes.c_char_p)
        self.error = self._entry("holdfast_error", ctypes.c_int64, result=ctypes.c_char_p)
        abi = self._entry("holdfast_abi")()
        if abi != _ABI:
            raise OSError(f"{path} speaks ABI {abi}, this Holdfast speaks {_ABI}: reinstall holdfast")
        wanted = os.environ.get("HOLDFAST_ISA")
        if wanted and self.isa().decode() != wanted:
            raise OSError(f"HOLDFAST_ISA={wanted} is not an instruction set of this CPU and this build")
        self._borrow_team()

    def _entry(self, name: str, *arguments: type, result: type = ctypes.c_int64) -> "ctypes._NamedFuncPointer":  # pyright: ignore[reportPrivateUsage]
        entry = self.dll[name]
        entry.argtypes = arguments
        entry.restype = result
        return entry

    def _borrow_team(self) -> None:
        """Use the OpenMP runtime that torch has mapped. A second one in the process would fight it (pytorch#98836)."""
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        for path in _mapped_openmp():
            try:
                runtime = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
                addresses = [ctypes.cast(runtime[name], ctypes.c_void_p) for name in names]
            except (OSError, AttributeError):
                continue
            borrow = self.dll["holdfast_borrow_team"]
            borrow.argtypes = [ctypes.c_void_p] * 3
            borrow.restype = None
            borrow(*addresses)
            return


def _mapped_openmp() -> list[str]:
    """Paths of the OpenMP runtimes in this process, torch's own first."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    mapped = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    found = [path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))]
    return sorted(found, key=lambda path: ("torch" not in path, path))


def _library_paths() -> list[Path]:
    """Where the library may lie: an editable install keeps it in site-packages while the sources stay elsewhere."""
    named = os.environ.get("HOLDFAST_LIBRARY")
    if named:
        return [Path(named)]
    name = {"darwin": "libholdfast.dylib", "win32": "holdfast.dll"}.get(sys.platform, "libholdfast.so")
    return [Path(folder) / name for folder in holdfast.__path__]


_library: _Library | None = None
_problem: str | None = None


def _load() -> _Library | None:
    """Load at the first call; two threads doing so at once load the same thing twice, which is harmless."""
    global _library, _problem
    if _library is None and _problem is None:
        paths = _library_paths()
        present = [path for path in paths if path.exists()]
        if not present:
            _problem = "no native library at " + " or ".join(map(str, paths)) + " (installed without a C++ compiler?)"
            return None
        try:
            _library = _Library(present[0])
        except (OSError, AttributeError) as error:
            _problem = f"the native library does not load: {error}"
    return _library


def _loaded() -> _Library:
    library = _library or _load()
    if library is None:
        raise RuntimeError(why_not())
    return library


def available() -> bool:
    return _load() is not None


def why_not() -> str:
    """Why the native engine is not available, in words; empty when it is."""
    return "" if available() else str(_problem)


# torch.compile cannot read the loading of a library and need not: it takes the answers as they are. This is what
# torch.compiler.assume_constant_result does, which would import the compiler at once (1.3 s).
available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
why_not._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def isa() -> str:
    """The instruction set in use."""
    return _loaded().isa().decode()


def isas() -> list[str]:
    """The instruction sets that this build and this CPU both have, slowest first."""
    library = _loaded()
    return [name for name in _ISAS if library.has_isa(name.encode())]


def use_isa(name: str) -> None:
    """Change the instruction set for all later calls. A `kept` buffer fits only the one that wrote it."""
    if _loaded().use_isa(name.encode()):
        raise ValueError(f"instruction set {name!r} is not to be had here; there are {', '.join(isas())}")


def peak_flops(threads: int) -> float:
    """Floating-point operations per second of multiply-adds in registers alone: the roof for every kernel."""
    burn = _loaded().burn
    best = 0.0
    for _ in range(5):  # the first run also wakes the CPU up
        start = time.perf_counter()
        done = burn(20_000_000, threads)
        best = max(best, done / (time.perf_counter() - start))
    return best


class _Room(threading.local):
    """Per thread: the argument structures and the scratch."""

    def __init__(self) -> None:
        self.lstm = ctypes.create_string_buffer(_LSTM.size)
        self.gradients = ctypes.create_string_buffer(_GRADIENTS.size)
        self.lstm_at = ctypes.addressof(self.lstm)
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
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _rows(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor with adjacent elements in its last axis; the other strides may be anything. Packed or not."""
    _check(name, tensor, shape)
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


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _raise_if(code: int) -> None:
    if code:
        raise ValueError(_loaded().error(code).decode())


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
        w_input: Tensor,
        w_recurrent: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        lengths: Tensor | None,
    ) -> None:
        self.packed = lengths is not None and x.dim() == 2
        if (x.dim() != 3 and not self.packed) or w_recurrent.dim() != 2:
            raise ValueError(
                f"x and w_recurrent came with {x.dim()} and {w_recurrent.dim()} axes; "
                "expected 3 ([time, batch, features]), or 2 and lengths (packed), and 2"
            )
        *self.leading, self.features = x.shape
        self.steps, self.batch = self.leading if lengths is None or not self.packed else _packed_size(x, lengths)
        self.units = w_recurrent.shape[1]
        if self.features < 1 or self.units < 1:
            raise ValueError(f"got {self.features} features and {self.units} units; expected at least one of each")
        self.x = _rows("x", x, x.shape)
        self.w_input = _adjacent("w_input", w_input, (4 * self.units, self.features))
        self.w_recurrent = _adjacent("w_recurrent", w_recurrent, (4 * self.units, self.units))
        state = (self.batch, self.units)
        self.h0 = None if h0 is None else _adjacent("h0", h0, state)
        self.c0 = None if c0 is None else _adjacent("c0", c0, state)
        self.lengths = lengths
        if lengths is not None:
            _check("lengths", lengths, (self.batch,), torch.int64)
            self.lengths = lengths.contiguous()

    def write(self, reverse: bool, bias: Tensor | None, y: Tensor, last: tuple[int, int]) -> None:
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
            self.w_input.data_ptr(),
            self.w_recurrent.data_ptr(),
            _address(bias),
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


def _hand_over(kept: Tensor | None, scratch: int) -> None:
    """The last two fields of holdfast_lstm."""
    _BUFFERS.pack_into(_room.lstm, _LSTM.size - _BUFFERS.size, _address(kept), scratch)


def forward(
    x: Tensor,
    w_input: Tensor,
    w_recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    keep: bool,
    room: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One layer, one direction. Returns y, h_last, c_last and what `backward` needs (None unless `keep`).

    x [time, batch, features], any strides; w_input [4 * units, features]; w_recurrent [4 * units, units];
    bias [4 * units]; h0, c0 [batch, units]; lengths int64 [batch]; gates in the order i f g o.
    y [time, batch, units] comes in x's memory order, zero past each row's length.
    Packed, as in torch's PackedSequence: x [sum of lengths, features] and y [sum of lengths, units].
    What is kept has at least `room` floats.
    """
    library = _loaded()
    given = _Inputs(x, w_input, w_recurrent, h0, c0, lengths)
    if bias is not None:
        bias = _adjacent("bias", bias, (4 * given.units,))
    y = like(x, given.units)
    h_last = x.new_empty((given.batch, given.units))
    c_last = torch.empty_like(h_last)
    given.write(reverse, bias, y, (h_last.data_ptr(), c_last.data_ptr()))
    kept = _pool.take(max(room, library.kept_floats(_room.lstm_at))) if keep else None
    _hand_over(kept, _room.scratch.at_least(library.scratch_bytes(_room.lstm_at, 0)))
    _raise_if(library.forward(_room.lstm_at))
    return y, h_last, c_last, kept


def backward(
    dy: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    x: Tensor,
    w_input: Tensor,
    w_recurrent: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    y: Tensor,
    kept: Tensor,
    *,
    reverse: bool,
    need_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (None unless `need_x`), w_input, w_recurrent, bias, h0, c0, given those of y, h_last, c_last.

    `y` and `kept` are what `forward` returned; they are only read, so this may be called again.
    """
    library = _loaded()
    given = _Inputs(x, w_input, w_recurrent, h0, c0, lengths)
    outputs = (*given.leading, given.units)
    state = (given.batch, given.units)
    y = _rows("y", y, outputs)
    dy = None if dy is None else _rows("dy", dy, outputs)
    dh_last = None if dh_last is None else _adjacent("dh_last", dh_last, state)
    dc_last = None if dc_last is None else _adjacent("dc_last", dc_last, state)
    dx = like(x, given.features) if need_x else None
    dw_input = x.new_empty((4 * given.units, given.features))
    dw_recurrent = x.new_empty((4 * given.units, given.units))
    dbias = x.new_empty((4 * given.units,))
    dh0, dc0 = x.new_empty(state), x.new_empty(state)
    given.write(reverse, None, y, (0, 0))
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
        dw_input.data_ptr(),
        dw_recurrent.data_ptr(),
        dbias.data_ptr(),
        dh0.data_ptr(),
        dc0.data_ptr(),
    )
    _raise_if(library.backward(_room.lstm_at, _room.gradients_at))
    return dx, dw_input, dw_recurrent, dbias, dh0, dc0
