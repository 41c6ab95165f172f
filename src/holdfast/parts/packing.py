"""The state of a stream as bytes, and back: a small safetensors file. Never pickle."""

import json
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .errors import DataError


def pack(kind: str, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """JSON values and arrays as bytes; ``kind`` says whose state it is."""
    # safetensors keeps one flat text-to-text table of metadata, which its own reader does not give back from bytes:
    # the values travel as an array of their UTF-8 bytes.
    said = np.frombuffer(json.dumps({"kind": kind, "values": values}).encode(), dtype=np.uint8)
    return save({"": said, **{name: np.ascontiguousarray(array) for name, array in arrays.items()}})


def unpack(kind: str, state: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of pack. Raises DataError where the bytes are not a state of this kind."""
    try:
        arrays = load(state)
        said = json.loads(arrays.pop("").tobytes())
        if said["kind"] != kind:
            raise DataError(f"this is the state of {said['kind']!r}, not of {kind!r}")
        return said["values"], arrays
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"these bytes are not the state of a stream: {error}") from None
