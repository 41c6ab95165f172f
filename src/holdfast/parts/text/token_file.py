"""Tokens of texts that may be larger than memory."""

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

LARGEST_HELD = 1 << 27  # bytes of tokens that are kept in memory; more go to a file


def gathered(parts: Iterable[np.ndarray], vocabulary: int) -> np.ndarray:
    """All parts as one array [tokens], as narrow as the vocabulary allows. A file behind it is gone with it."""
    narrow: Any = np.uint16 if vocabulary <= 1 << 16 else np.int32
    held: list[np.ndarray] = []
    size = 0
    file: Any = None
    for part in parts:
        held.append(part.astype(narrow))
        size += held[-1].nbytes
        if size > LARGEST_HELD:
            file = file or tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the array
            np.concatenate(held).tofile(file)
            held, size = [], 0
    rest = np.concatenate(held) if held else np.empty(0, dtype=narrow)
    if file is None:
        return rest
    rest.tofile(file)
    file.flush()
    with file:  # what is mapped stays when its file is closed
        return np.memmap(file, dtype=narrow, mode="r")
