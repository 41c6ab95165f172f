"""What is known of the items before any network learns: their names, how often each came, and what follows what.

The rules are the sequential rules of Ludewig & Jannach, "Evaluation of session-based recommendation algorithms", User
Modeling and User-Adapted Interaction 28, 2018, section 3.3: a Markov chain that also sees a few events further. What an
LSTM cannot learn of an item that came a handful of times can still be counted.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .history import History

REACH = 10  # events ahead that count as following
FADING = 0.7  # by which each event further counts less
MOST_FOLLOWERS = 500  # of an item, the strongest
UNRULED = 1e-3  # a rule's probability of an item of which no rule says anything
LOOKED_BACK = 20  # last events whose followers are put together, the n-th from the end with weight 1 / n


@dataclass(frozen=True)
class Followers:
    """For every item the items that follow it, and how strongly."""

    starts: np.ndarray  # [items + 2] int64: the followers of item n stand at starts[n]..starts[n + 1]
    items: np.ndarray  # [followers] int32, none twice in an item's own
    weights: np.ndarray  # [followers] float32

    def after(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """(items, weights) of what follows one."""
        own = slice(self.starts[item], self.starts[item + 1])
        return self.items[own], self.weights[own]

    def link(self, item: int, follower: int) -> float:
        """How strongly one item is followed by another."""
        items, weights = self.after(item)
        place = np.flatnonzero(items == follower)
        return float(weights[place[0]]) if place.size else 0.0


@dataclass(frozen=True)
class Catalogue:
    """Facts found in the training histories. Items are numbered from 1; 0 is one that was never met."""

    items: tuple[str, ...]
    counts: np.ndarray  # [items + 1] int64, that of 0 is 0
    rules: Followers  # within REACH events, counted, what is further counting less
    chain: Followers  # what came next, counted: the Markov chain, which is a baseline only
    weight: float = 0.0  # of the rules in the answer; like temperature found on the validation histories
    temperature: float = 1.0  # by which the logarithms of scores are divided

    def grown(self, other: "Catalogue") -> "Catalogue":
        """What both know together, counts and followers added up. Items keep their numbers; new ones come behind."""
        numbers = self.numbers
        items = (*self.items, *(item for item in other.items if item not in numbers))
        place = {item: number for number, item in enumerate(items, start=1)}
        moved = np.array([0, *(place[item] for item in other.items)], dtype=np.int64)
        counts = np.zeros(len(items) + 1, dtype=np.int64)
        counts[: len(self.counts)] = self.counts
        counts[moved] += other.counts
        rules, chain = (
            together(own, theirs, moved, len(items))
            for own, theirs in ((self.rules, other.rules), (self.chain, other.chain))
        )
        return Catalogue(items, counts, rules, chain)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.items, start=1)}

    def numbered(self, items: Sequence[str]) -> np.ndarray:
        """[events] int64."""
        return np.array([self.numbers.get(item, 0) for item in items], dtype=np.int64)

    @functools.cached_property
    def trust(self) -> np.ndarray:
        """By what an item's rules are multiplied, [items + 1]: one over the square root of their sum.

        Between a count, which favours what is frequent, and a probability, which trusts what came once.
        """
        owners = np.repeat(np.arange(len(self.counts)), np.diff(self.rules.starts))
        sums = np.bincount(owners, self.rules.weights, minlength=len(self.counts))
        return (1 / np.sqrt(np.maximum(sums, 1e-30))).astype(np.float32)

    def rule(self, item: int, follower: int) -> float:
        """How strongly an item speaks for another one."""
        return self.rules.link(item, follower) * float(self.trust[item])

    @functools.cached_property
    def popularity(self) -> np.ndarray:
        """[items + 1] float32, adding up to 1."""
        return (self.counts / self.counts.sum()).astype(np.float32)

    @functools.cached_property
    def most_popular(self) -> np.ndarray:
        """Item numbers [items], the most frequent first."""
        return np.argsort(-self.counts[1:], kind="stable") + 1

    def by_rules(self, pasts: Sequence[np.ndarray], looked_back: int = LOOKED_BACK) -> np.ndarray:
        """Probabilities of the next item, [pasts, items + 1] float32; zeros where no rule says anything.

        ``pasts`` are item numbers in the order of time.
        """
        found = np.zeros((len(pasts), len(self.counts)), dtype=np.float32)
        for row, past in zip(found, pasts, strict=True):
            for back, item in enumerate(past[::-1][:looked_back].tolist(), start=1):
                items, weights = self.rules.after(item)
                row[items] += weights * self.trust[item] / back
        return found / np.maximum(found.sum(axis=1, keepdims=True), 1e-30)

    def ruled(self, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One row of by_rules without its zeros: items [found] int64, rising, and their probabilities [found]."""
        last = past[::-1][:LOOKED_BACK].tolist()
        parts = [self.rules.after(item) for item in last]
        if not sum(len(items) for items, _ in parts):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        speaking = [
            weights * (self.trust[item] / back)
            for back, (item, (_, weights)) in enumerate(zip(last, parts, strict=True), start=1)
        ]
        found, place = np.unique(np.concatenate([items for items, _ in parts]), return_inverse=True)
        sums = np.bincount(place, np.concatenate(speaking))
        return found.astype(np.int64), (sums / sums.sum()).astype(np.float32)

    def by_chain(self, pasts: Sequence[np.ndarray]) -> np.ndarray:
        """The first-order Markov chain: how often each item came right after the last one, [pasts, items + 1]."""
        found = np.zeros((len(pasts), len(self.counts)), dtype=np.float32)
        for row, past in zip(found, pasts, strict=True):
            items, counts = self.chain.after(int(past[-1]) if len(past) else 0)
            row[items] = counts
        return found / np.maximum(found.sum(axis=1, keepdims=True), 1e-30)


def catalogue_of(histories: Sequence[History]) -> Catalogue:
    """All items of some histories, the most frequent first, equally frequent ones by name."""
    met: dict[str, int] = {}
    lengths = [len(one) for one in histories]
    events = (met.setdefault(item, len(met)) for one in histories for item in one.items)
    flat = np.fromiter(events, dtype=np.int64, count=sum(lengths))
    names, counts, count = list(met), np.bincount(flat, minlength=len(met)), len(met)
    by_name = np.array(sorted(range(count), key=names.__getitem__), dtype=np.int64)
    order = by_name[np.argsort(-counts[by_name], kind="stable")]
    number = np.empty(count, dtype=np.int64)
    number[order] = np.arange(1, count + 1)
    items, owners = number[flat], np.repeat(np.arange(len(histories)), lengths)
    rules, chain = (followers_of(items, owners, count, reach) for reach in (REACH, 1))
    return Catalogue(tuple(names[n] for n in order.tolist()), np.concatenate([[0], counts[order]]), rules, chain)


def together(own: Followers, other: Followers, moved: np.ndarray, count: int) -> Followers:
    """Two sets of followers added up; the items of the other one have new numbers, moved [its items + 1]."""
    width = count + 1
    first = [np.repeat(np.arange(len(one.starts) - 1), np.diff(one.starts)) for one in (own, other)]
    codes = np.concatenate([first[0] * width + own.items, moved[first[1]] * width + moved[other.items]])
    pairs, place = np.unique(codes, return_inverse=True)
    weights = np.bincount(place, np.concatenate([own.weights, other.weights]), minlength=len(pairs))
    return strongest(pairs, weights, count)


def strongest(pairs: np.ndarray, weights: np.ndarray, count: int) -> Followers:
    """Pairs of items, before * (count + 1) + after, rising, as followers: MOST_FOLLOWERS of each at most."""
    before, after = pairs // (count + 1), pairs % (count + 1)
    starts = starts_of(before, count)
    kept = np.ones(len(pairs), dtype=bool)
    for item in np.flatnonzero(np.diff(starts) > MOST_FOLLOWERS).tolist():
        own = np.arange(starts[item], starts[item + 1])
        kept[own[np.argsort(-weights[own], kind="stable")[MOST_FOLLOWERS:]]] = False
    return Followers(starts_of(before[kept], count), after[kept].astype(np.int32), weights[kept].astype(np.float32))


def starts_of(before: np.ndarray, count: int) -> np.ndarray:
    """Where the rows of each item begin among rows that are sorted by item, [count + 2] int64."""
    return np.concatenate([[0], np.cumsum(np.bincount(before, minlength=count + 1))])


def followers_of(items: np.ndarray, owners: np.ndarray, count: int, reach: int) -> Followers:
    """What follows what within some events of one user: the sum of FADING ** (distance - 1) over all occurrences.

    ``items`` and ``owners`` [events] are those of all users, one after the other. All pairs are sorted once, their
    distances as the last digit of their numbers.
    """
    found: list[np.ndarray] = []
    for distance in range(1, reach + 1):
        same = owners[distance:] == owners[:-distance]
        pairs = items[:-distance][same] * (count + 1) + items[distance:][same]
        found.append(pairs * reach + (distance - 1))
    codes = np.concatenate(found)
    codes.sort()
    pairs = codes // reach
    begins = np.flatnonzero(np.diff(pairs, prepend=-1))
    faded = FADING ** np.arange(reach)
    weights = np.add.reduceat(faded[codes - pairs * reach], begins) if begins.size else np.empty(0)
    return strongest(pairs[begins], weights, count)
