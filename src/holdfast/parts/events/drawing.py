"""A picture of rankings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..drawing import figure_of
from .history import History
from .ranking import Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # users
LAST = 8  # events of each
NAMED = 28  # letters of an item's name


def draw_rankings(histories: Sequence[History], rankings: Sequence[Ranking]) -> "Figure":
    """For the first few users: what they did last, and bars for what they may want next."""
    pairs = list(zip(histories, rankings, strict=True))[:SHOWN]
    tall = max((len(ranking.items) for _, ranking in pairs), default=1)
    figure: Any = figure_of()(figsize=(10, max(1, len(pairs)) * (1.0 + 0.24 * max(tall, LAST))), layout="constrained")
    panels = figure.subplots(max(1, len(pairs)), 2, squeeze=False, width_ratios=[1, 2])
    for (history, ranking), (left, right) in zip(pairs, panels, strict=True):
        draw_past(left, history)
        draw_bars(right, ranking)
    return figure


def short(name: str) -> str:
    return name if len(name) <= NAMED else name[: NAMED - 1] + "…"


def draw_past(axes: Any, history: History) -> None:
    """The last events, the latest at the bottom."""
    last = history.items[-LAST:]
    for n, item in enumerate(last):
        axes.text(0.02, 1 - (n + 0.5) / LAST, short(item), va="center", fontsize=8, transform=axes.transAxes)
    axes.set_title(f"{short(history.user)}: the last {len(last)} of {len(history)} events", loc="left", fontsize=9)
    axes.set_axis_off()


def draw_bars(axes: Any, ranking: Ranking) -> None:
    """Probabilities, the best on top, and why."""
    places = range(len(ranking.items))
    axes.barh(places, ranking.scores, color="tab:blue", alpha=0.6)
    axes.set_yticks(places, [short(item) for item in ranking.items], fontsize=8)
    for place, score, reason in zip(places, ranking.scores, ranking.reasons, strict=True):
        if reason:
            axes.text(score, place, f"  because of {short(reason)}", va="center", fontsize=7, color="0.4")
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("probability", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
