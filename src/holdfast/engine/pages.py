"""Memory for the kernels that is mapped once and used again.

Fresh pages are cleared by the kernel when they are first touched. Of a training step, which writes tens of megabytes
for its backward pass, that took nearly a tenth.
"""

import ctypes
import mmap
import sys
import threading
from typing import Final

import torch
from torch import Tensor

HUGE: Final = 2 << 20  # bytes in a huge page
POOLED_FROM: Final = 256 << 10  # bytes; below, torch's allocator serves from memory that is already mapped
POOLED_MOST: Final = 256 << 20  # bytes that may lie idle


def fresh_pages(size: int) -> tuple[mmap.mmap, int]:
    """New memory of at least `size` bytes, in huge pages where the system has them; and where the first begins.

    Private to the process: what Python maps without being told so, a forked child and its parent both write into.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    pages = mmap.mmap(-1, size + HUGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    return pages, -start % HUGE


def whole_pages(size: int) -> int:
    return -(-size // HUGE) * HUGE


def in_memory(tensor: Tensor) -> Tensor:
    """The tensor with the numbers it means in memory: its sign may be pending, and torch has zeros without any."""
    tensor = tensor.resolve_neg() if tensor.is_neg() else tensor
    return tensor.clone() if tensor._is_zerotensor() else tensor  # pyright: ignore[reportPrivateUsage]


class Scratch:
    """One buffer that grows with the largest call so far. Not for two threads at once."""

    def __init__(self) -> None:
        self._size = 0
        self._address = 0
        self._pages: mmap.mmap | None = None

    def at_least(self, size: int) -> int:
        """Address of this many bytes, aligned to huge pages, in which the next call may do what it likes."""
        if size > self._size:
            self._size = whole_pages(size + size // 4)
            self._pages, offset = fresh_pages(self._size)
            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages)) + offset
        return self._address


class Pool:
    """Float32 tensors on memory that is used again once nobody holds the tensor any more.

    Whether a piece is free its reference count tells: torch.frombuffer holds the buffer for as long as a tensor or an
    autograd graph lives on it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[tuple[int, mmap.mmap, int]] = []  # size, memory, offset; least recently used first
        self._idle = 0  # references to a piece's memory while no tensor lives on it

    def take(self, floats: int) -> Tensor:
        """An uninitialised float32 tensor of this many elements."""
        size = floats * 4
        if size < POOLED_FROM:
            return torch.empty(floats, dtype=torch.float32)
        with self._lock:
            index = self._free_piece(size)
            if index is None:
                whole = whole_pages(size)
                self._drop_unused()
                piece = (whole, *fresh_pages(whole))
            else:
                piece = self._pieces.pop(index)
            self._pieces.append(piece)
            if index is None:  # measured while nobody holds it, since interpreters count differently
                self._idle = self._references(len(self._pieces) - 1)
            return torch.frombuffer(piece[1], dtype=torch.float32, count=floats, offset=piece[2])

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._pieces[index][1])

    def _is_free(self, index: int) -> bool:
        return self._references(index) <= self._idle

    def _free_piece(self, size: int) -> int | None:
        """The smallest free piece that fits without wasting more than half of it."""
        fitting = [
            (self._pieces[n][0], n)
            for n in range(len(self._pieces))
            if size <= self._pieces[n][0] <= 2 * size + HUGE and self._is_free(n)
        ]
        return min(fitting)[1] if fitting else None

    def _drop_unused(self) -> None:
        """Give the oldest free pieces back to the system while more than `POOLED_MOST` bytes lie idle."""
        free = [n for n in range(len(self._pieces)) if self._is_free(n)]
        idle = sum(self._pieces[n][0] for n in free)
        dropped: set[int] = set()
        for n in free:
            if idle <= POOLED_MOST:
                break
            idle -= self._pieces[n][0]
            dropped.add(n)
        self._pieces = [piece for n, piece in enumerate(self._pieces) if n not in dropped]
