"""An index of items in a file of its own: to build one of a million takes minutes, to read it a second.

The file says of which items it is, so that what a model was not made of is never searched for it. It is trusted: what
reads the graph (usearch) does not defend itself against a file that was forged.
"""

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.engine import durable

from ..errors import DataError, ResourceError
from ..packing import pack, unpack

log = logging.getLogger("holdfast")

KIND = "index of items"


def fingerprint(rows: np.ndarray, bias: np.ndarray, built: tuple[int, ...]) -> str:
    """Of items [items, width] with their biases, and of how their graph is built."""
    digest = hashlib.blake2b(repr((rows.shape, built)).encode(), digest_size=16)
    for array in (rows, bias):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_graph(path: Path, of: str) -> bytes | None:
    """The graph that was kept; None where there is no file, or that of other items.

    Raises DataError where the file is none of an index, ResourceError where it cannot be read, or one could not be kept
    there, which is better known before it is built.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK):
            raise ResourceError(f"{path} cannot be written", hint="is the folder there?") from None
        return None
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
    hint = "name another file with --index; this one is left as it is"
    try:
        values, arrays = unpack(KIND, data)
        known, graph = values["of"], arrays["graph"]
    except (DataError, KeyError):
        raise DataError(f"{path} is not an index of items", hint=hint) from None
    if known != of:
        log.warning("recommend: %s is the index of another model; it is made anew", path)
        return None
    return graph.tobytes()


def write_graph(path: Path, of: str, graph: Any) -> None:
    """Keep usearch's index, whole or not at all. Where the disk refuses the log says so: what was built is of use."""
    started = time.perf_counter()
    data = pack(KIND, {"of": of}, {"graph": np.frombuffer(graph.save(), dtype=np.uint8)})
    try:
        durable.write(path, data)
    except OSError as error:
        log.warning("recommend: the index is not kept: %s cannot be written: %s", path, error.strerror)
        return
    log.info("recommend: index kept in %s in %.1f s", path, time.perf_counter() - started)
