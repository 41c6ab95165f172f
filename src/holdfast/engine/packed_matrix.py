"""A matrix by which many others are multiplied, packed once: kernels/holdfast.h's structures, filled and called.

torch packs both factors anew for each product, and rounds them for each where it has been told to. A loop over steps
that meets the same weights at every step pays for that every time.
"""

import ctypes
import threading
from typing import Final, final

import torch
from torch import Tensor

from . import library, native, threads
from .pages import Pool, Scratch, in_memory


@final
class _Matrix(ctypes.Structure):
    """holdfast_matrix."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("depth", "columns", "precision")),
        *((name, ctypes.c_void_p) for name in ("memory", "engine")),
    ]


@final
class _Product(ctypes.Structure):
    """holdfast_product."""

    _fields_ = [
        ("matrix", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "threads")),
        ("a", ctypes.c_void_p),
        ("a_row", ctypes.c_int64),
        ("init", ctypes.c_void_p),
        ("init_row", ctypes.c_int64),
        ("c", ctypes.c_void_p),
        ("c_row", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
    ]


class _Room(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


_room: Final = _Room()
_pool: Final = Pool()


@final
class PackedMatrix:
    """B [depth, columns] as it is now. On a CPU in float32 it is packed, in torch's precision; otherwise torch has it.

    Args:
        matrix: B, or the transpose of a matrix without gaps between rows; anything else is copied first.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2:
            raise ValueError(f"a matrix has two axes; this came as {list(matrix.shape)}")
        self.matrix = matrix.detach()
        self._memory: Tensor | None = None
        if matrix.device.type == "cpu" and matrix.dtype is torch.float32 and matrix.numel() and library.available():
            self._pack(in_memory(self.matrix))

    def _pack(self, matrix: Tensor) -> None:
        turned = matrix.T.is_contiguous()
        matrix = matrix if turned else matrix.contiguous()
        self._matrix = _Matrix(*matrix.shape, native.precision(bfloat16=False))
        self._memory = _pool.take(library.entry("holdfast_matrix_bytes")(ctypes.byref(self._matrix)) // 4)
        self._matrix.memory = self._memory.data_ptr()
        code = library.entry("holdfast_matrix_pack")(
            ctypes.byref(self._matrix), ctypes.c_void_p(matrix.data_ptr()), int(turned)
        )
        if code:
            raise ValueError(library.words_for(code))

    def product(self, a: Tensor, *, init: Tensor | None = None, out: Tensor) -> Tensor:
        """out [rows, columns] becomes a [rows, depth] B + init [rows, columns] or [columns]; out may be init.

        Raises ValueError where shapes, dtypes or devices do not fit, or elements of a row are not adjacent in `out`.
        """
        depth, columns = self.matrix.shape
        given = [a, out, *([] if init is None else [init])]
        shaped = a.dim() == 2 and a.shape[1] == depth and out.shape == (len(a), columns)
        if not shaped or (init is not None and init.shape not in (out.shape, out.shape[1:])):
            came = [list(t.shape) for t in given]
            raise ValueError(f"by a matrix {[depth, columns]} these cannot be multiplied, written, added: {came}")
        if any(t.dtype is not self.matrix.dtype or t.device != self.matrix.device for t in given):
            raise ValueError(f"the matrix is {self.matrix.dtype} on {self.matrix.device}; other factors must be, too")
        if self._memory is None:
            return torch.mm(a, self.matrix, out=out) if init is None else torch.addmm(init, a, self.matrix, out=out)
        if out.stride(1) != 1 and columns > 1:
            raise ValueError("elements of a row of out must be adjacent")
        a = a if a.stride(1) == 1 else a.contiguous()
        if init is not None:
            init = in_memory(init if init.stride(-1) == 1 else init.contiguous())
        self._multiply(in_memory(a), init, out)
        return out

    def _multiply(self, a: Tensor, init: Tensor | None, out: Tensor) -> None:
        call = _Product(
            ctypes.addressof(self._matrix),
            len(a),
            threads.allowed(),
            a.data_ptr(),
            a.stride(0),
            None if init is None else init.data_ptr(),
            init.stride(0) if init is not None and init.dim() == 2 else 0,
            out.data_ptr(),
            out.stride(0),
        )
        call.scratch = _room.scratch.at_least(library.entry("holdfast_product_scratch_bytes")(ctypes.byref(call)))
        if code := library.entry("holdfast_product_make")(ctypes.byref(call)):
            raise ValueError(library.words_for(code))
