"""Fan charts: the end of the history, the median, and the 80 % and 95 % intervals around it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from .series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12  # small pictures in one figure
INK, BLUE, PALE, FAINT, RED = "#1d2733", "#1f6f8b", "#8fc1d0", "#cfe5ec", "#c0392b"

Fan = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # median, 80 % ends, 95 % ends, each [horizon]


def fan_chart(series: Sequence[Series], fans: Sequence[Fan], firsts: Sequence[int]) -> "Figure":
    """Each series with its fan, which begins at its stamp in ``firsts``: in the series, or after its end.

    One small picture per series, the first twelve of them. Raises MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "a fan chart") from None
    shown = min(len(series), MOST)
    columns = 1 if shown == 1 else 2 if shown <= 4 else 3
    rows = -(-max(shown, 1) // columns)
    figure = Figure(figsize=(max(8.0, 4.6 * columns), 3.4 * rows if shown == 1 else 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for place, axis in enumerate(axes):
        if place < shown:
            draw_fan(axis, series[place], fans[place], firsts[place])
        else:
            axis.set_axis_off()
    if shown:
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    if len(series) > shown:
        figure.suptitle(f"{shown} of {len(series)} series", fontsize=9, color=INK)
    return figure


def draw_fan(axis: "Axes", one: Series, fan: Fan, first: int) -> None:
    """The newest history of a series, its fan from stamp ``first`` on, and what came true where that is known."""
    median, low80, high80, low95, high95 = fan
    horizon = len(median)
    known = int(np.searchsorted(one.stamps(0, len(one.values)), first))  # values before the forecast
    back = min(known, max(3 * horizon, 36))
    past = axis_times(one, known - back, back)
    future = axis_times(one, known - 1, horizon + 1)
    last = one.values[known - 1]
    truth = one.values[known - 1 : known + horizon]
    axis.plot(past, one.values[known - back : known], color=INK, linewidth=1.1, label="history")
    axis.fill_between(future, joined(last, low95), joined(last, high95), color=FAINT, linewidth=0, label="95 %")
    axis.fill_between(future, joined(last, low80), joined(last, high80), color=PALE, linewidth=0, label="80 %")
    axis.plot(future, joined(last, median), color=BLUE, linewidth=1.6, label="median")
    if len(truth) > 1:
        axis.plot(future[: len(truth)], truth, color=RED, linewidth=1.1, linestyle=(0, (3, 1.5)), label="came true")
    axis.set_title(one.id, fontsize=9, loc="left", color=INK)
    axis.tick_params(labelsize=7, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e3e7ea", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    if one.frequency.has_calendar:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def axis_times(one: Series, first: int, count: int) -> Any:
    """Times for the axis: dates, or steps."""
    stamps = one.stamps(first, count)
    return stamps.astype("datetime64[us]") if one.frequency.has_calendar else stamps


def joined(last: float, values: np.ndarray) -> np.ndarray:
    """Values with the last known one in front, so that the fan grows out of the history."""
    return np.concatenate([[last], values])
