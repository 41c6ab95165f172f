"""Histories: what each user did, in the order of time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

FIRST_OF_TEN = 0.9  # share of time before the border of a split by time


@dataclass(frozen=True)
class History:
    """One user's events in the order of time. The last ``held`` of them are asked about, not learned from."""

    user: str
    items: tuple[str, ...]
    times: np.ndarray | None = None  # [events] float64, seconds or counts; None where nobody said
    held: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def until(self, end: int) -> Self:
        """The first ``end`` events, nothing held."""
        times = None if self.times is None else self.times[:end]
        return replace(self, items=self.items[:end], times=times, held=0)

    @property
    def known(self) -> int:
        """How many events may be looked back on."""
        return len(self) - self.held


def split_last(histories: Sequence[History]) -> tuple[list[History], list[History]]:
    """Leave one out: (histories without their last event, whole ones whose last event is held).

    Users with fewer than three events are learned from whole: what would be left of them is no history.
    """
    train = [one.until(len(one) - 1) if len(one) > 2 else one for one in histories]
    return train, [replace(one, held=1) for one in histories if len(one) > 2]


def split_by_time(histories: Sequence[History]) -> tuple[list[History], list[History]]:
    """Everything before a border in time is learned from, what comes after it is held.

    The border leaves a tenth of all events behind it. Users who begin later are held whole but for their first event.
    """
    times = [one.times for one in histories if one.times is not None]
    border = float(np.quantile(np.concatenate(times), FIRST_OF_TEN))
    train: list[History] = []
    valid: list[History] = []
    for one in histories:
        assert one.times is not None
        before = int(np.searchsorted(one.times, border, side="right"))
        if before:
            train.append(one.until(before))
        if len(one) > max(before, 1):
            valid.append(replace(one, held=len(one) - max(before, 1)))
    return train, valid
