"""A picture of where a translation looked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..drawing import figure_of
from .translating import Translation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4  # translations in a picture
MOST = 40  # pieces along an axis that are named


def draw_alignments(outputs: Sequence[Translation]) -> "Figure":
    """For some translations: the source's pieces to the right, the translation's downwards, dark where it looked."""
    shown = [one for one in outputs if one.best.pieces][:SHOWN]
    figure: Any = figure_of()(figsize=(11, 4.2 * max(1, -(-len(shown) // 2))), layout="constrained")
    if not shown:
        figure.text(0.5, 0.5, "nothing was translated", ha="center")
        return figure
    grid = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flat
    for axes, one in zip(grid, shown, strict=False):
        axes.imshow(one.best.attention, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for pieces, ticks, labels in (
            (one.pieces, axes.set_xticks, axes.set_xticklabels),
            (one.best.pieces, axes.set_yticks, axes.set_yticklabels),
        ):
            named = [piece.strip().replace("$", r"\$") or "·" for piece in pieces[:MOST]]
            ticks(range(len(named)))
            labels(named, fontsize=8)
        axes.tick_params(axis="x", labelrotation=60)
        title = one.text if len(one.text) <= 60 else f"{one.text[:59]}…"
        axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=9, fontweight="bold")
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    return figure
