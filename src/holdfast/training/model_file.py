"""One file: tensors and a block of JSON in a safetensors container, written so that no crash leaves half of one.

The container's metadata holds a single entry, "holdfast": a JSON object with the format number, the kind ("model" or
"run"), the application's name, its settings, its codec and its card. Nothing in a file names code or another file, so
opening a stranger's file runs nothing of theirs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..engine import durable
from ..parts.errors import ModelFileError, ResourceError

FORMAT = 1  # raised when a file of the older kind would be misread; each past format keeps an upgrade and a golden file
HEADER_LIMIT = 100 * 1024 * 1024  # bytes, the limit of the safetensors format itself


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def write(path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file whole or not at all. The same contents give the same bytes.

    Raises ResourceError where the disk refuses; the file that was there before is then still there, untouched.
    """
    said = json.dumps({"format": FORMAT, "kind": kind, **header}, sort_keys=True, allow_nan=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    try:
        durable.write(path, save(plain, metadata={"holdfast": said}))
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error.strerror}", hint="the old file is unchanged") from None


def read(path: Path, kind: str) -> Contents:
    """Open a file and check that it is what it says. Raises ModelFileError naming the file and the reason."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be opened: {error.strerror}") from None
    header = parse_header(Path(path), data)
    if header.get("kind") != kind:
        raise ModelFileError(f"{path} holds a {header.get('kind')!r}, not a {kind}")
    try:
        return Contents(header, load(data))
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelFileError(f"{path} is damaged: {error}", hint="copy or train it again") from None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON block of a file, without its tensors. Raises ModelFileError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            file.seek(0)
            return parse_header(path, file.read(8 + min(size, HEADER_LIMIT)))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be opened: {error.strerror}") from None


def parse_header(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON block of a file. Declared sizes are compared with the real size before anything is believed."""
    if len(data) < 8:
        raise ModelFileError(f"{path} is not a Holdfast file: it has {len(data)} bytes")
    size = int.from_bytes(data[:8], "little")
    if size > HEADER_LIMIT or data[8:9] != b"{":
        raise ModelFileError(f"{path} is not a Holdfast file", hint="Holdfast files are written by Model.save")
    if 8 + size > len(data):
        raise ModelFileError(f"{path} is cut off: its header alone should take {size} bytes, the file has {len(data)}")
    try:
        container = json.loads(data[8 : 8 + size])
        header = json.loads(container["__metadata__"]["holdfast"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelFileError(f"{path} is a safetensors file, but not one of Holdfast's") from None
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise ModelFileError(f"{path} has a header without a format number")
    if header["format"] > FORMAT:
        raise ModelFileError(
            f"{path} has format {header['format']}, this Holdfast reads up to {FORMAT}", hint="install a newer Holdfast"
        )
    return header


def fill(net: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put stored weights into a network built from settings, after comparing every name, shape and type.

    ``net`` may stand on the meta device: no memory is asked for before the file has shown that it has the data.
    """
    wanted = net.state_dict()
    missing, foreign = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or foreign:
        raise ModelFileError(f"{path} does not fit its own settings: missing {missing[:3]}, unknown {foreign[:3]}")
    for name, tensor in tensors.items():
        want = wanted[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise ModelFileError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"its settings make it {want.dtype} {list(want.shape)}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelFileError(f"{path}: {name} holds NaN or infinity", hint="train it again with a lower rate")
    net.load_state_dict(tensors, assign=True)
