"""The best items out of very many without scoring all of them: approximate search, then exact scores of what it found.

The network's items are searched by HNSW (Malkov & Yashunin, IEEE TPAMI 42(4), 2020) as usearch has it. An item is
[embedding, bias, filler], the filler making all of them equally long, a question [vector, 1, 0]: then the nearest item
is the one of the largest logit (Bachrach et al., "Speeding up the Xbox recommender system", RecSys 2014).
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..errors import DataError, MissingExtraError
from .catalogue import UNRULED, Catalogue
from .index_file import fingerprint, read_graph, write_graph
from .next_item import NextItem
from .ranking import best

log = logging.getLogger("holdfast")

NEIGHBOURS = 12  # of an item in the graph
BREADTH_BUILT = 40  # candidates looked at when an item finds its neighbours
BREADTH = 128  # the same when a question is answered, at least
MARGIN = 64  # items found beyond those that are needed: the rules may lift some of them
TAIL = 4096  # items that stand for all that were not found


@final
class ItemIndex:
    """Items by the network, the likeliest first, approximately. Raises MissingExtraError without usearch.

    Args:
        net: trained.
        kept: a file to take the graph from, or to keep it in where that is not there or of other items.
    """

    def __init__(self, net: NextItem, kept: Path | None = None) -> None:
        self.rows, self.bias = (t.detach().numpy() for t in net.rows())  # [items + 1, width], [items + 1]; 0 is no item
        self.graph = self.found(kept)
        count = len(self.bias) - 1
        dice = np.random.default_rng(0)
        self.tail = np.arange(1, count + 1) if count <= TAIL else np.sort(dice.choice(count, TAIL, replace=False)) + 1
        self.tail_rows, self.tail_bias = self.rows[self.tail], self.bias[self.tail]

    def found(self, kept: Path | None) -> Any:
        """The graph, read or built."""
        library, started = usearch(), time.perf_counter()
        of = "" if kept is None else fingerprint(self.rows, self.bias, (NEIGHBOURS, BREADTH_BUILT))
        known = None if kept is None else read_graph(kept, of)
        if kept is not None and known is not None:
            return restored(library, known, len(self.bias) - 1, kept)
        graph = graph_of(self.rows[1:], self.bias[1:])
        log.info("recommend: %d items indexed in %.1f s", len(self.bias) - 1, time.perf_counter() - started)
        if kept is not None:
            write_graph(kept, of, graph)
        return graph

    def search(self, vector: np.ndarray, count: int) -> np.ndarray:
        """Numbers of about the ``count`` items of the largest logits, rising."""
        asked = np.concatenate([vector, np.array([1.0, 0.0], dtype=np.float32)])
        return np.sort(self.graph.search(asked, min(count, len(self.bias) - 1), threads=1).keys.astype(np.int64))

    def logits(self, vector: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.rows[items] @ vector + self.bias[items]

    def log_total(self, vector: np.ndarray, found: np.ndarray, temperature: float) -> float:
        """The log of the sum of exp(logit / temperature) over all items.

        Of the items found it is exact, all others are estimated by a few that were drawn once (Mussmann & Ermon,
        "Learning and inference via maximum inner product search", ICML 2016). ``found`` rises.
        """
        head = self.logits(vector, found) / temperature
        tail = (self.tail_rows @ vector + self.tail_bias)[~holds(found, self.tail)] / temperature
        highest = max(head.max(initial=-np.inf), tail.max(initial=-np.inf))
        total = np.exp(head - highest).sum()
        if len(tail):
            total += np.exp(tail - highest).mean() * (len(self.bias) - 1 - len(found))
        return float(highest + np.log(total))


def usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise MissingExtraError("usearch", "ann", "approximate retrieval") from None
    return usearch.index


def restored(library: Any, known: bytes, count: int, kept: Path) -> Any:
    """usearch's index of so many items from its bytes. Raises DataError where they are not that."""
    try:
        graph = library.Index.restore(known, expansion_search=BREADTH)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{kept} cannot be used by this usearch: {error}", hint="remove it; it is made anew") from None
    if graph is None or len(graph) != count:
        raise DataError(f"{kept} is damaged", hint="remove it; it is made anew")
    return graph


def graph_of(rows: np.ndarray, bias: np.ndarray) -> Any:
    """usearch's index of items [items, width] with their biases, numbered from 1."""
    squares = (rows**2).sum(axis=1) + bias**2
    filler = np.sqrt(squares.max() - squares)
    longer = np.concatenate([rows, bias[:, None], filler[:, None]], axis=1, dtype=np.float32)
    graph = usearch().Index(
        ndim=longer.shape[1],
        metric="ip",
        dtype="f16",  # what is found is scored anew in float32
        connectivity=NEIGHBOURS,
        expansion_add=BREADTH_BUILT,
        expansion_search=BREADTH,
    )
    graph.add(np.arange(1, len(rows) + 1), longer, threads=torch.get_num_threads())
    return graph


_indices: WeakKeyDictionary[NextItem, dict[str | None, ItemIndex]] = WeakKeyDictionary()  # such a network never changes


def index_of(net: NextItem, kept: str | None = None) -> ItemIndex:
    """The index of a trained network, found at the first call and held as long as the network; kept as ItemIndex's."""
    indices = _indices.setdefault(net, {})
    if kept not in indices:
        indices[kept] = ItemIndex(net, None if kept is None else Path(kept))
    return indices[kept]


def holds(rising: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Which of some items are among others that rise, [items] bool."""
    if not len(rising):
        return np.zeros(len(items), dtype=bool)
    return rising[np.minimum(np.searchsorted(rising, items), len(rising) - 1)] == items


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    top: int
    barred: np.ndarray  # items that are not to be recommended
    allowed: np.ndarray | None  # those that may be, rising; None: all


def near(
    index: ItemIndex, codec: Catalogue, vector: np.ndarray, past: np.ndarray, wanted: Wanted
) -> tuple[np.ndarray, np.ndarray] | None:
    """About the best items of one user, falling, and their scores; None where too few were found.

    Where few items are allowed all of them are scored; else as many are searched for as leave enough of them.
    """
    need = wanted.top + len(wanted.barred) + MARGIN
    allowed = wanted.allowed
    ruled = codec.ruled(past)
    fetched = need if allowed is None else -(-need * len(codec.items) // len(allowed))
    if allowed is not None and fetched >= len(allowed):
        found, candidates, whole = likely(index, codec, vector, past, need), allowed, True
    else:
        found = likely(index, codec, vector, past, fetched)
        candidates, whole = np.union1d(found, ruled[0]), False
        candidates = candidates if allowed is None else candidates[holds(allowed, candidates)]
    candidates = candidates[~np.isin(candidates, wanted.barred)]
    if not whole and len(candidates) < wanted.top:
        return None
    scores = scored(index, codec, vector, candidates, found, ruled) if len(past) else codec.popularity[candidates]
    order = best(scores, wanted.top)
    return candidates[order], scores[order]


def likely(index: ItemIndex, codec: Catalogue, vector: np.ndarray, past: np.ndarray, count: int) -> np.ndarray:
    """The network's best items, rising; of who has no events the popular ones."""
    return index.search(vector, count) if len(past) else np.sort(codec.most_popular[:count])


def scored(
    index: ItemIndex,
    codec: Catalogue,
    vector: np.ndarray,
    items: np.ndarray,
    found: np.ndarray,
    rules: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Probabilities of some items, [items] float32, as if all had been scored.

    ``found`` are the network's best, ``rules`` what Catalogue.ruled says. Of the sum over all items the network's part
    is estimated; what the rules add to it is exact.
    """
    warm, power = codec.temperature, codec.weight / codec.temperature
    ruled, probabilities = rules
    said = np.full(len(items), UNRULED)
    known = holds(ruled, items)
    said[known] += probabilities[np.searchsorted(ruled, items[known])]
    scores = index.logits(vector, items) / warm + power * np.log(said)
    total = index.log_total(vector, found, warm) + power * np.log(UNRULED)
    if len(ruled):
        lifted = (probabilities + UNRULED) ** power - UNRULED**power
        own = index.logits(vector, ruled) / warm
        total = np.logaddexp(total, own.max() + np.log((lifted * np.exp(own - own.max())).sum() + 1e-300))
    return np.exp(scores - total).astype(np.float32)
