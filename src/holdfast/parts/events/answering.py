"""From what users did to rankings, for whole histories and for events as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from ..errors import DataError
from ..packing import pack, unpack
from .catalogue import LOOKED_BACK, UNRULED, Catalogue
from .history import History
from .next_item import Memory, NextItem
from .ranking import Ranking, best
from .reading import Events
from .retrieval import ItemIndex, Wanted, near

CELLS = 1 << 23  # of a block of scores, users times items
STEPS = 1 << 14  # events shown to the network at once


class Halves(NamedTuple):
    """What the network says of some users and what the rules say, [users, items + 1] float32."""

    network: np.ndarray  # logits
    rules: np.ndarray  # probabilities; a row of zeros where no rule says anything


@dataclass(frozen=True)
class Answering:
    """A trained recommender and what is wanted of it."""

    net: NextItem
    codec: Catalogue
    repeat: bool  # recommend what the user has had, too
    allowed: np.ndarray | None = None  # item numbers that may be recommended, rising; None: all
    index: ItemIndex | None = None  # for approximate retrieval; None: every item is scored

    def blocks(self, count: int) -> Iterator[slice]:
        """Rows in blocks whose scores fit into memory."""
        step = max(1, CELLS // len(self.codec.counts))
        return (slice(first, first + step) for first in range(0, count, step))

    @torch.inference_mode()
    def vectors(self, pasts: Sequence[np.ndarray], memory: Memory | None = None) -> tuple[list[Tensor], Memory]:
        """The network's vector after every event, [events, width] per past, and its memory after the last of each.

        Every past holds an event at least.
        """
        packed = pack_sequence([torch.from_numpy(past) for past in pasts], enforce_sorted=False)
        vectors, after = self.net.packed(packed, memory)
        padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(vectors, batch_first=True)
        return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)], after

    def last_vectors(self, pasts: Sequence[np.ndarray]) -> Tensor:
        """[pasts, width], in groups of like length; zeros where nothing is known of a user."""
        found = torch.zeros(len(pasts), self.net.width)
        order = sorted((n for n in range(len(pasts)) if len(pasts[n])), key=lambda n: len(pasts[n]))
        for group in groups(order, [len(past) for past in pasts]):
            rows, _ = self.vectors([pasts[n] for n in group])
            found[group] = torch.stack([row[-1] for row in rows])
        return found

    @torch.inference_mode()
    def halves(self, vectors: Tensor, pasts: Sequence[np.ndarray]) -> Halves:
        """From the network's vectors [pasts, width] and the events before."""
        return Halves(self.net.logits(vectors).numpy(), self.codec.by_rules(pasts))

    def pooled(self, halves: Halves, weight: float | None = None) -> np.ndarray:
        """The logarithm of a score, [users, items + 1] float32: both halves' logarithms added up.

        A logarithmic opinion pool (Hinton, "Training products of experts by minimizing contrastive divergence", Neural
        Computation 14(8), 2002): what both find likely comes first, and either can rule an item out. ``weight`` of the
        rules; None: as calibrated.
        """
        weight = self.codec.weight if weight is None else weight
        return halves.network + np.float32(weight) * np.log(halves.rules + np.float32(UNRULED))

    def mixed(self, halves: Halves, pasts: Sequence[np.ndarray], weight: float | None = None) -> np.ndarray:
        """Probabilities [pasts, items + 1] float32. Of whom nothing is known gets what is popular."""
        pooled = torch.from_numpy(self.pooled(halves, weight))
        found = (pooled / self.codec.temperature).softmax(-1).numpy()
        for row, past in zip(found, pasts, strict=True):
            if not len(past):
                row[:] = self.codec.popularity
        return found

    def barred(self, scores: np.ndarray, had: Sequence[np.ndarray]) -> np.ndarray:
        """Scores [users, items + 1], -inf for unknown items, items had, and items that are not allowed."""
        scores[:, 0] = -np.inf
        if self.allowed is not None:
            other = np.ones(scores.shape[1], dtype=bool)
            other[self.allowed] = False
            scores[:, other] = -np.inf
        if not self.repeat:
            for row, own in zip(scores, had, strict=True):
                row[own] = -np.inf
        return scores

    def rank(self, histories: Sequence[History], top: int) -> list[Ranking]:
        """The ``top`` items for each user, fewer where no more are left."""
        pasts = [self.codec.numbered(one.items) for one in histories]
        found: list[Ranking] = []
        for block in self.blocks(len(pasts)):
            own = pasts[block]
            found += self.rankings([one.user for one in histories[block]], self.last_vectors(own), own, own, top)
        return found

    def rankings(
        self, users: Sequence[str], vectors: Tensor, pasts: Sequence[np.ndarray], had: Sequence[np.ndarray], top: int
    ) -> list[Ranking]:
        """Rankings from the network's vectors [users, width], the last events and all items a user has had."""
        picked = self.picked(vectors, pasts, had, top)
        found: list[Ranking] = []
        for user, past, (numbers, scores) in zip(users, pasts, picked, strict=True):
            items = tuple(self.codec.items[number - 1] for number in numbers)
            found.append(Ranking(user, items, scores, tuple(self.reason(past, int(item)) for item in numbers)))
        return found

    def picked(
        self, vectors: Tensor, pasts: Sequence[np.ndarray], had: Sequence[np.ndarray], top: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best items of each user, falling, and their scores: found by the index, or where it gives too few or
        there is none, from the scores of all items."""
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if self.index is not None:
            for n, (vector, past, own) in enumerate(zip(vectors.numpy(), pasts, had, strict=True)):
                wanted = Wanted(top, own[:0] if self.repeat else own, self.allowed)
                picked = near(self.index, self.codec, vector, past, wanted)
                found |= {} if picked is None else {n: picked}
        rest = [n for n in range(len(pasts)) if n not in found]
        if rest:
            asked = [pasts[n] for n in rest]
            scores = self.mixed(self.halves(vectors[rest], asked), asked)
            for n, row in zip(rest, self.barred(scores, [had[n] for n in rest]), strict=True):
                numbers = best(row, top)
                found[n] = numbers, row[numbers]
        return [found[n] for n in range(len(pasts))]

    def reason(self, past: np.ndarray, item: int) -> str:
        """The item among a user's last ones that the recommended one follows most, or is most like."""
        last = past[past > 0][::-1][:LOOKED_BACK]
        if not last.size:
            return ""
        links = np.array([self.codec.rule(int(one), item) / back for back, one in enumerate(last, start=1)])
        if links.max() == 0:
            rows = torch.nn.functional.normalize(self.net.rows_of(np.append(last, item)), dim=1)
            links = (rows[:-1] @ rows[-1]).detach().numpy()
        return self.codec.items[int(last[links.argmax()]) - 1]


def groups(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers in the order of falling length, in groups of some events."""
    group: list[int] = []
    events = 0
    for number in order:
        if group and events + lengths[number] > STEPS:
            yield group
            group, events = [], 0
        group.append(number)
        events += lengths[number]
    if group:
        yield group


@dataclass
class User:
    """What a stream knows of one user."""

    h: np.ndarray  # [members * layers, hidden] float32
    c: np.ndarray
    vector: np.ndarray  # [width] float32, the network's after the last event
    recent: list[int] = field(default_factory=list[int])  # the last events, LOOKED_BACK at most
    had: set[int] = field(default_factory=set[int])
    answered: bool = False  # since the last event


class UserStream:
    """Events of all users as they come. Of each user a memory of fixed size is kept, and the set of items had.

    An event without an item is a question: that user's ranking is given at once. In the end all are ranked who did not
    ask after their last event.
    """

    def __init__(self, answering: Answering, top: int) -> None:
        self.answering, self.top = answering, top
        self.users: dict[str, User] = {}
        layers, cells = answering.net.memory_shape
        self.kind = f"recommend {len(answering.codec.items)} items, {layers} times {cells} cells"

    def push(self, piece: Events) -> list[Ranking]:
        """The answers to the questions in some events."""
        outputs: list[Ranking] = []
        heard: dict[str, list[str]] = {}
        for user, item in zip(piece.users, piece.items, strict=True):
            if item:
                heard.setdefault(user, []).append(item)
                continue
            self.take(heard)
            heard = {}
            outputs += self.answer([user])
        self.take(heard)
        return outputs

    def flush(self) -> list[Ranking]:
        """Rankings of all users that are waiting for one, in the order in which they came; then nobody is known."""
        waiting = [name for name, user in self.users.items() if not user.answered]
        outputs = [one for block in self.answering.blocks(len(waiting)) for one in self.answer(waiting[block])]
        self.users = {}
        return outputs

    def take(self, heard: dict[str, list[str]]) -> None:
        """New events of some users."""
        if not heard:
            return
        codec = self.answering.codec
        users = [self.users.setdefault(name, self.stranger()) for name in heard]
        pasts = [codec.numbered(items) for items in heard.values()]
        h, c = (np.stack([getattr(user, name) for user in users], axis=1) for name in ("h", "c"))
        memory = Memory(torch.from_numpy(h), torch.from_numpy(c))
        vectors, after = self.answering.vectors(pasts, memory)
        for place, (user, past) in enumerate(zip(users, pasts, strict=True)):
            user.h, user.c = after.h[:, place].numpy(), after.c[:, place].numpy()
            user.vector = vectors[place][-1].numpy()
            user.recent = [*user.recent, *past.tolist()][-LOOKED_BACK:]
            user.had |= set(past.tolist())
            user.answered = False

    def stranger(self) -> User:
        net = self.answering.net
        zero = np.zeros(net.memory_shape, dtype=np.float32)
        return User(zero, zero, np.zeros(net.width, dtype=np.float32))

    def answer(self, names: Sequence[str]) -> list[Ranking]:
        """Rankings of some users, known or not."""
        users = [self.users.get(name, self.stranger()) for name in names]
        for user in users:
            user.answered = True
        vectors = torch.from_numpy(np.stack([user.vector for user in users]))
        recent = [np.array(user.recent, dtype=np.int64) for user in users]
        had = [np.array(sorted(user.had), dtype=np.int64) for user in users]
        return self.answering.rankings(names, vectors, recent, had, self.top)

    def state(self) -> bytes:
        """All users, as bytes."""
        users = list(self.users.values())
        known = users or [self.stranger()]
        values = {"users": list(self.users), "answered": [user.answered for user in users]}
        lists = {"recent": [user.recent for user in users], "had": [sorted(user.had) for user in users]}
        arrays = {name: np.stack([getattr(user, name) for user in known]) for name in ("h", "c", "vector")}
        for name, rows in lists.items():
            arrays[f"{name} lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
            arrays[name] = np.array([item for row in rows for item in row], dtype=np.int64)
        return pack(self.kind, values, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from state(). Raises DataError where the bytes are not a state of this model."""
        values, arrays = unpack(self.kind, state)
        try:
            lists = {
                name: np.split(arrays[name], np.cumsum(arrays[f"{name} lengths"])[:-1]) for name in ("recent", "had")
            }
            self.users = {
                name: User(
                    arrays["h"][place].copy(),
                    arrays["c"][place].copy(),
                    arrays["vector"][place].copy(),
                    lists["recent"][place].tolist(),
                    set(lists["had"][place].tolist()),
                    values["answered"][place],
                )
                for place, name in enumerate(values["users"])
            }
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(f"these bytes are not the state of a recommender: {error}") from None
