"""What every picture begins with."""

from typing import TYPE_CHECKING

from .errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_of() -> "type[Figure]":
    """matplotlib's Figure, which opens no window and keeps nothing global."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "a picture") from None
    return Figure
