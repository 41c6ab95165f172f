"""Recommendation: what each user will want next, from what they did so far, for new users too."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from ..parts.errors import DataError
from ..parts.events import judging, made_up
from ..parts.events.answering import Answering, UserStream
from ..parts.events.catalogue import Catalogue, catalogue_of
from ..parts.events.drawing import draw_rankings
from ..parts.events.filtering import allowed_items
from ..parts.events.history import History, split_by_time, split_last
from ..parts.events.next_item import NextItem, Sizes, padded
from ..parts.events.ranking import Ranking, ranking_rows
from ..parts.events.reading import Columns, Events, read_histories, read_lines
from ..parts.events.retrieval import index_of
from ..parts.settings import setting
from ..training.application import Application, Loss, Recipe, Scores, Showcase, Source, Stream
from ..training.batching import bucketed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("holdfast")

UNCOUNTED = -1  # in place of a target


class Numbered(NamedTuple):
    """One history as numbers."""

    items: np.ndarray  # [events] int64
    held: int  # last events that alone count in validation


class Steps(NamedTuple):
    """A batch."""

    items: Tensor  # [batch, time] int64, 0 past a row's end
    targets: Tensor  # [batch, time] int64: the item that came next, UNCOUNTED where it does not count


@final
@dataclass(frozen=True)
class Recommender(Application[History, Catalogue, list[Numbered], Steps, Ranking, Events]):
    """Events of users with items, in time -> a ranking of what comes next for each user."""

    width: int = setting(128, "width of the items' embeddings", low=1)
    hidden: int = setting(128, "memory cells per layer", low=1)
    layers: int = setting(1, "LSTM layers", low=1)
    members: int = setting(1, "networks that learn apart and answer together", low=1)
    dropout: float = setting(0.5, "share of features left out while training", low=0.0, high=0.95)
    forgotten: float = setting(0.1, "share of events hidden while training", low=0.0, high=0.95)
    longest: int = setting(50, "events in a piece of history while training", low=2)
    negatives: int = setting(2048, "items a target is told from, where there are more than 60,000", low=1)
    holdout: Literal["last", "time"] = setting("last", "validation: each user's last event, or the last tenth of time")
    top: int = setting(10, "items in a ranking", low=1, use=True)
    repeat: bool = setting(False, "recommend what the user has had, too", use=True)
    retrieval: Literal["exact", "approximate"] = setting(
        "exact", "score every item, or search an index, which is faster among very many", use=True
    )
    index: str | None = setting(None, "a file that keeps such an index; made where it is not there", use=True)
    among: str | None = setting(None, "a file of the items that may be recommended, one per line", use=True)
    items: str | None = setting(None, "a table of items and their attributes: only what is in it", use=True)
    where: tuple[str, ...] = setting((), "of that table only items with, such as genre=Comedy or 'price<=20'", use=True)
    user_column: str | None = setting(None, "column of users; found by its name where not given", use=True)
    item_column: str | None = setting(None, "column of items", use=True)
    time_column: str | None = setting(None, "column of times; without one the order of rows counts", use=True)

    task: ClassVar[str] = "recommend"
    summary: ClassVar[str] = "events of users in, ranked next items out, for new users too"
    recipe: ClassVar[Recipe] = Recipe(
        steps=1200, batch=256, learning_rate=3e-3, weight_decay=0.1, validate_every=200, average=0.99
    )
    codec_type: ClassVar[type] = Catalogue

    @property
    def columns(self) -> Columns:
        """Which column of a table is what."""
        return Columns(self.user_column, self.item_column, self.time_column)

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[History]:
        return read_histories(source, self.columns)

    def synthesize(self, count: int, rng: np.random.Generator) -> list[History]:
        """Shoppers with a taste each, who buy things in their order: after a tent a sleeping bag."""
        return made_up.shoppers(count, rng)

    def split(self, examples: Sequence[History], rng: np.random.Generator) -> tuple[list[History], list[History]]:
        """Each user's last event, or what happened in the last tenth of time, is held out."""
        if self.holdout == "time":
            if any(example.times is None for example in examples):
                raise DataError("the events have no times to split by", hint="name --time-column, or --holdout last")
            train, valid = split_by_time(examples)
        else:
            train, valid = split_last(examples)
        if not valid:
            raise DataError("no user has three events or more", hint="nothing can be learned from so short histories")
        return train, valid

    def prepare(self, examples: Sequence[History]) -> Catalogue:
        codec = catalogue_of(examples)
        if len(codec.items) == 1:
            raise DataError(f"the only item is {codec.items[0]!r}", hint="two at least are needed to rank them")
        if all(len(example) < 2 for example in examples):
            raise DataError("no user has two events", hint="is --user-column the right one?")
        return codec

    def grow(self, before: Catalogue, fresh: Catalogue) -> Catalogue:
        """All items of both; what follows what is added up."""
        return before.grown(fresh)

    def named_rows(self, codec: Catalogue) -> dict[str, Sequence[str]]:
        names = ("", *codec.items)  # item 0 was never met
        return {f"members.{n}.{part}": names for n in range(self.members) for part in ("embedding.weight", "bias")}

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Catalogue) -> nn.Module:
        return NextItem(
            torch.from_numpy(codec.counts),
            Sizes(self.width, self.hidden, self.layers),
            members=self.members,
            dropout=self.dropout,
            forgotten=self.forgotten,
            negatives=self.negatives,
        )

    def encode(self, codec: Catalogue, examples: Sequence[History]) -> list[Numbered]:
        """All histories of two events or more; of long ones pieces of ``longest`` steps, which overlap by a half."""
        pieces: list[Numbered] = []
        for example in examples:
            items = codec.numbered(example.items)
            ends = range(len(items), 1, -max(1, self.longest // 2))
            for end in ends if example.held == 0 else [len(items)]:
                piece = items[max(0, end - self.longest - 1) : end]
                if len(piece) > 1:
                    pieces.append(Numbered(piece, min(example.held, len(piece) - 1)))
                if end <= self.longest + 1:
                    break
        return pieces

    def batches(
        self, codec: Catalogue, encoded: list[Numbered], size: int, rng: np.random.Generator | None
    ) -> Iterator[Steps]:
        for batch in bucketed(encoded, size, rng, lambda one: len(one.items)):
            items, _ = padded([one.items[:-1] for one in batch])
            targets, lengths = padded([one.items[1:] for one in batch])
            held = torch.tensor([one.held or len(one.items) for one in batch])
            place = torch.arange(targets.shape[1])
            counted = place >= (lengths - held).unsqueeze(1)
            counted &= place < lengths.unsqueeze(1)
            yield Steps(items, torch.where(counted, targets, UNCOUNTED))

    def loss(self, net: nn.Module, batch: Steps, state: Any = None) -> Loss:
        assert isinstance(net, NextItem)
        vectors, _ = net(batch.items)
        if not net.training:  # an item that was never met stands behind all others
            counted = batch.targets != UNCOUNTED
            places = net.log_places(vectors[counted], batch.targets[counted])
            return Loss(places.sum(), len(places))
        counted = batch.targets > 0
        return Loss(net.loss(vectors[counted], batch.targets[counted]), int(counted.sum()))

    def calibrate(self, net: nn.Module, codec: Catalogue, examples: Sequence[History]) -> Catalogue:
        """The weight of the rules that gives the best NDCG, then the temperature of least log loss."""
        assert isinstance(net, NextItem)
        codec = dataclasses.replace(codec, weight=judging.best_weight(Answering(net, codec, self.repeat), examples))
        warm = judging.best_temperature(Answering(net, codec, self.repeat), examples)
        return dataclasses.replace(codec, temperature=warm)

    # --- answering ----------------------------------------------------------------------------------------------------

    def answering(self, net: nn.Module, codec: Catalogue, *, index: bool = False) -> Answering:
        """``index``: by an index of the items, where that is set; judging places all of them and has no use for it."""
        assert isinstance(net, NextItem)
        allowed = allowed_items(codec, self.among, self.items, self.where)
        searched = index_of(net, self.index) if index and self.retrieval == "approximate" else None
        return Answering(net, codec, self.repeat, allowed, searched)

    def predict(self, net: nn.Module, codec: Catalogue, inputs: Sequence[History]) -> list[Ranking]:
        return self.answering(net, codec, index=True).rank(inputs, self.top)

    def evaluate(self, net: nn.Module, codec: Catalogue, examples: Sequence[History]) -> Scores:
        """On each user's last event, or on the events that a split has held; all items are ranked."""
        table = judging.judge(self.answering(net, codec), examples)
        ours, others = table["holdfast"]["NDCG@10"], {who: row["NDCG@10"] for who, row in table.items()}
        best = max(others, key=lambda who: others[who])
        if others[best] > ours:
            log.warning("recommend: %s is better here (NDCG@10 %.4f against %.4f)", best, others[best], ours)
        return table

    def stream(self, net: nn.Module, codec: Catalogue) -> Stream[Events, Ranking]:
        return RecommendStream(self.answering(net, codec, index=True), self.top)

    def pieces(self, source: BinaryIO) -> Iterator[Events]:
        return read_lines(source, self.columns)

    @classmethod
    def showcase(cls) -> Showcase:
        """Made-up shoppers; what they buy last is guessed."""
        shoppers = cls().synthesize(300, np.random.default_rng(0))
        train, full = split_last(shoppers)
        story = "Three hundred made-up shoppers fill their baskets; what will each of them buy next?"
        app, recipe = cls(width=32, hidden=32, dropout=0.2), dataclasses.replace(cls.recipe, steps=300, batch=64)
        return Showcase(story, app, recipe, train, [one.until(one.known) for one in full], full)

    def rows(self, outputs: Sequence[Ranking]) -> list[dict[str, Any]]:
        return ranking_rows(outputs)

    def draw(self, inputs: Sequence[History], outputs: Sequence[Ranking]) -> "Figure":
        return draw_rankings(inputs, outputs)


@final
class RecommendStream(UserStream, Stream[Events, Ranking]):
    """Every user's memory is kept, in O(1) each; who asks is answered at once."""
