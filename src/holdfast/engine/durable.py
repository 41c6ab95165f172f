"""Writing a file so that after a kill or a power cut its path holds the old content or the new, never a part."""

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Temporary name, fsync, rename, fsync of the folder. Raises OSError; the old file is then untouched."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
