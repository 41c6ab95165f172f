"""The errors a user meets: what was wrong, where, and what would do. Each carries the command line's exit code."""

import difflib
from collections.abc import Iterable


class HoldfastError(Exception):
    """What the user can mend. ``hint`` says how."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  {hint}" if hint else message)
        self.hint = hint


class SettingError(HoldfastError, ValueError):
    """A setting, a flag or a configuration file is wrong."""

    exit_code = 2


class DataError(HoldfastError, ValueError):
    """The data handed in cannot be used. The message names the file, rows and columns."""

    exit_code = 3


class ModelFileError(HoldfastError, ValueError):
    """A model file is missing, damaged, foreign or from a later format."""

    exit_code = 4


class ResourceError(HoldfastError, RuntimeError):
    """Disk, memory or time ran out."""

    exit_code = 6


class MissingExtraError(HoldfastError, ImportError):
    """An optional package is needed for this and is not installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}", hint=f'pip install "holdfast[{extra}]"')


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where a known word is near, else the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
