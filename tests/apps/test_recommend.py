"""What is special about recommendation: time, new users and items, what is barred, and the reasons given."""

import dataclasses
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from holdfast.apps.recommend import Recommender
from holdfast.parts.errors import DataError, SettingError
from holdfast.parts.events import judging
from holdfast.parts.events.catalogue import FADING, Catalogue, catalogue_of
from holdfast.parts.events.history import History, split_by_time, split_last
from holdfast.parts.events.ranking import best, measures, places
from holdfast.parts.events.reading import Columns, read_histories
from holdfast.training.application import Recipe
from holdfast.training.model import Model

SMALL = Recommender(width=16, hidden=16, dropout=0.2)
QUICK = Recipe(steps=150, batch=32, learning_rate=1e-2, validate_every=50)


def shoppers(count: int, seed: int = 0) -> list[History]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit(shoppers(200), recipe=QUICK)


# --- reading ---


def table(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(columns)


def test_events_are_put_in_the_order_of_time_and_ties_keep_their_rows() -> None:
    frame = table(user=["a", "b", "a", "a"], item=["x", "y", "w", "z"], time=[3, 1, 2, 3])
    first, second = read_histories(frame, Columns())
    assert (first.user, first.items) == ("a", ("w", "x", "z"))
    assert (second.user, second.items) == ("b", ("y",))


@pytest.mark.parametrize(
    "names", [("userId", "movieId", "timestamp"), ("Customer ID", "SKU", "Date"), ("uid", "asin", "ts")]
)
def test_columns_are_found_by_their_names(names: tuple[str, str, str]) -> None:
    user, item, time = names
    frame = table(**{time: [2, 1], "rating": [5.0, 3.0], item: [7, 8], user: [1, 1]})
    (history,) = read_histories(frame, Columns())
    assert history.items == ("8", "7") and history.user == "1"


def test_numbers_that_came_as_fractions_are_the_same_items(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,time\n1,7,1\n")
    (tmp_path / "b.csv").write_text("user,item,time\n1.0,7.0,2\n")
    (history,) = read_histories([tmp_path / "a.csv", tmp_path / "b.csv"], Columns())
    assert (history.user, history.items) == ("1", ("7", "7"))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (table(user=["a", None], item=["x", "y"]), "row 3, column 'user'"),
        (table(user=["a", "a"], item=["x", " "]), "row 3, column 'item'"),
        (table(user=["a"], thing=["x"]), "no column of items among user, thing"),
        (table(user=["a", "a"], item=["x", "y"], time=["2024-01-01", "soon"]), "row 3, column 'time'"),
    ],
)
def test_what_cannot_be_read_is_named(frame: pl.DataFrame, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_histories(frame, Columns())


# --- splitting ---


def test_each_users_last_event_is_held_out_and_never_learned_from() -> None:
    histories = shoppers(20)
    train, valid = split_last(histories)
    for whole, learned, held in zip(histories, train, valid, strict=True):
        assert learned.items == whole.items[:-1] and held == dataclasses.replace(whole, held=1)


def test_by_time_nothing_that_is_learned_from_lies_behind_what_is_held() -> None:
    train, valid = split_by_time(shoppers(50))
    latest = max(float(one.times[-1]) for one in train if one.times is not None)
    held = [one.times[one.known :] for one in valid if one.times is not None and len(one) > one.held + 1]
    assert held and min(float(times[0]) for times in held) > latest


def test_validation_counts_the_held_events_alone() -> None:
    codec = catalogue_of(shoppers(50))
    one = dataclasses.replace(shoppers(1)[0], held=2)
    (batch,) = SMALL.batches(codec, SMALL.encode(codec, [one]), 4, None)
    assert batch.targets[0].tolist() == [-1] * (len(one) - 3) + codec.numbered(one.items[-2:]).tolist()


# --- counting ---


def test_rules_add_up_what_follows_within_reach() -> None:
    codec = catalogue_of([History("u", ("a", "b", "c")), History("v", ("a", "b"))])
    a, b, c = (codec.numbers[name] for name in "abc")
    assert codec.counts[[a, b, c]].tolist() == [2, 2, 1]
    assert codec.chain.link(a, b) == 2 and codec.chain.link(b, c) == 1 and codec.chain.link(a, c) == 0
    total = 2 + FADING
    assert codec.rule(a, b) == pytest.approx(2 / total**0.5)
    assert codec.rule(a, c) == pytest.approx(FADING / total**0.5)
    assert codec.rules.link(b, a) == 0  # nothing runs backwards, nor from user to user


def test_two_catalogues_together_know_what_one_of_all_events_knows() -> None:
    one, other = shoppers(30), [*shoppers(30, seed=9), History("x", ("anchor", "tent", "anchor"))]
    whole, grown = catalogue_of([*one, *other]), catalogue_of(one).grown(catalogue_of(other))
    assert (
        set(grown.items) == set(whole.items) and grown.items[: len(catalogue_of(one).items)] == catalogue_of(one).items
    )
    for item in whole.items:
        assert grown.counts[grown.numbers[item]] == whole.counts[whole.numbers[item]]
        for follower in whole.items:
            for name in ("rule", "link"):
                a, b = (
                    (codec.rule if name == "rule" else codec.chain.link)(codec.numbers[item], codec.numbers[follower])
                    for codec in (grown, whole)
                )
                assert a == pytest.approx(b, rel=1e-5)


def test_a_model_goes_on_with_new_items_and_keeps_the_old() -> None:
    fresh = [History(f"n{n}", ("tent", "anchor", "rope", "buoy", "lantern")) for n in range(40)]
    grown = SMALL.fit(fresh, recipe=dataclasses.replace(QUICK, steps=60), start=model())
    assert grown.codec.items[: len(model().codec.items)] == model().codec.items
    assert {"anchor", "rope", "buoy"} < set(grown.codec.items)
    (sailor, camper) = grown.predict([History("a", ("tent", "anchor")), History("b", ("canvas", "brush"))])
    assert sailor.items[0] == "rope"
    assert set(camper.items[:4]) & {"paint", "easel", "palette", "apron"}  # what was learned before is still known


def test_one_goes_on_from_the_same_settings_only() -> None:
    with pytest.raises(SettingError, match="hidden is 16 in the model to start from, not 17"):
        dataclasses.replace(SMALL, hidden=17).fit(shoppers(20), recipe=QUICK, start=model())


def test_the_markov_chain_is_a_frequency() -> None:
    codec = catalogue_of([History("u", ("a", "b", "a", "c", "a", "b"))])
    a, b, c = (codec.numbers[name] for name in "abc")
    found = codec.by_chain([np.array([c, a])])[0]
    assert found[[b, c]] == pytest.approx([2 / 3, 1 / 3]) and found.sum() == pytest.approx(1)


# --- judging ---


def test_measures_by_hand() -> None:
    found = measures(np.array([0, 1, 9, 10, 50]))
    assert found["HR@10"] == pytest.approx(3 / 5)
    assert found["NDCG@10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(11)) / 5)
    assert found["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11 + 1 / 51) / 5)


def test_of_equal_scores_half_stand_before_the_answer() -> None:
    assert places(np.array([[1.0, 5.0, 1.0, 1.0]]), np.array([2])).tolist() == [2.0]


def test_best_takes_no_barred_item_and_breaks_ties_by_number() -> None:
    scores = np.array([-np.inf, 0.2, 0.7, 0.2, -np.inf])
    assert best(scores, 2).tolist() == [2, 1] and best(scores, 9).tolist() == [2, 1, 3]


def test_it_beats_what_needs_no_network() -> None:
    scores = model().evaluate(shoppers(150, seed=5))
    others = {who: row["NDCG@10"] for who, row in scores.items() if who in ("Markov chain", "popularity")}
    assert scores["holdfast"]["NDCG@10"] > max(others.values()) > 0


def test_an_item_never_met_counts_as_missed() -> None:
    histories = [History("u", ("tent", "sleeping bag", "submarine"))]
    assert model().evaluate(histories)["holdfast"]["HR@10"] == 0


def test_no_answer_is_looked_at() -> None:
    """What is asked about may be anything: the questions before it stay what they are."""
    answering = SMALL.answering(model().net, model().codec)
    asked = shoppers(5, seed=7)
    other = [dataclasses.replace(one, items=(*one.items[:-1], "lamp")) for one in asked]
    one, two = judging.questions_of(answering, asked), judging.questions_of(answering, other)
    assert [p.tolist() for p in one.pasts] == [p.tolist() for p in two.pasts]


# --- answering ---


def test_what_a_user_has_had_is_not_recommended_unless_asked_for() -> None:
    history = [History("new", ("tent", "sleeping bag", "stove"))]
    (fresh,) = model().predict(history)
    (again,) = model().using(repeat=True, top=100).predict(history)
    assert not set(fresh.items) & set(history[0].items)
    assert set(history[0].items) < set(again.items)


def test_only_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("lantern\nmap\n\nno such thing\n")
    (found,) = model().using(among=str(tmp_path / "few.txt")).predict([History("new", ("tent",))])
    assert set(found.items) == {"lantern", "map"}
    (tmp_path / "none.txt").write_text("no such thing\n")
    with pytest.raises(DataError, match="names no item that the model knows"):
        model().using(among=str(tmp_path / "none.txt")).predict([History("new", ("tent",))])


def test_a_new_user_gets_what_the_events_say_and_one_without_any_what_is_popular() -> None:
    (camper, nobody) = model().predict([History("x", ("tent", "sleeping bag")), History("y", ())])
    assert camper.items[0] in ("stove", "lantern", "map", "boots")
    codec: Catalogue = model().codec
    assert nobody.items == codec.items[:10] and set(nobody.reasons) == {""}


def test_items_never_met_do_no_harm() -> None:
    (found,) = model().predict([History("x", ("tent", "submarine", "sleeping bag"))])
    assert found.items[0] in ("stove", "lantern", "map", "boots")


def test_reasons_are_the_users_own_items() -> None:
    history = History("x", ("tent", "pan"))
    (found,) = model().predict([history])
    assert set(found.reasons) <= set(history.items)
    assert dict(zip(found.items, found.reasons, strict=True))["sleeping bag"] == "tent"


def test_scores_are_probabilities_that_fall() -> None:
    (found,) = model().using(repeat=True, top=1000).predict([History("x", ("tent",))])
    assert (np.diff(found.scores) <= 0).all() and found.scores.sum() == pytest.approx(1, abs=1e-4)


# --- the stream ---


def test_a_question_is_answered_at_once_and_by_what_came_before_it() -> None:
    raw = b"user,item\na,tent\na,\na,sleeping bag\nb,pan\n"
    stream = model().stream()
    (piece,) = model().application.pieces(io.BytesIO(raw))
    answers = list(stream.push(piece))
    assert [one.user for one in answers] == ["a"]
    assert answers[0].items == model().predict([History("a", ("tent",))])[0].items
    rest = list(stream.flush())
    assert [one.user for one in rest] == ["a", "b"]
    assert rest[0].items == model().predict([History("a", ("tent", "sleeping bag"))])[0].items


def test_the_memory_of_a_user_does_not_grow_with_the_events() -> None:
    stream = model().using(repeat=True).stream()
    sizes = []
    for _ in range(3):
        for _ in range(40):
            stream.push(next(model().application.pieces(io.BytesIO(b"user,item\na,tent\na,pan\n"))))
        sizes.append(len(stream.state()))
    assert sizes[0] == sizes[1] == sizes[2]


# --- large catalogues ---


def test_beyond_sixty_thousand_items_negatives_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.parts.events.next_item.LARGEST_FULL", 3)
    app = dataclasses.replace(SMALL, negatives=8)
    trained = app.fit(shoppers(200), recipe=QUICK)
    scores = trained.evaluate(shoppers(100, seed=5))
    assert scores["its LSTM alone"]["NDCG@10"] > scores["popularity"]["NDCG@10"]


def test_blocks_of_users_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = shoppers(7, seed=3)
    whole = model().predict(asked)
    monkeypatch.setattr("holdfast.parts.events.answering.CELLS", 2 * len(model().codec.counts))
    monkeypatch.setattr("holdfast.parts.events.answering.STEPS", 6)
    for one, other in zip(whole, model().predict(asked), strict=True):
        assert one.items == other.items
        torch.testing.assert_close(torch.tensor(one.scores), torch.tensor(other.scores))


def test_beauty_reads_and_its_markov_chain_scores_what_is_known_of_it(shared_data: Path) -> None:
    """The package's README: HR@10 0.0628 and NDCG@10 0.0422, counted on all but the last two items of each user."""
    import lzma

    with lzma.open(shared_data / "amazon_beauty" / "Beauty.txt.xz", "rt") as file:
        users = [History(user, tuple(items)) for user, *items in map(str.split, file)]
    codec = catalogue_of([one.until(len(one) - 2) for one in users])
    found: list[np.ndarray] = []
    for first in range(0, len(users), 1000):
        block = users[first : first + 1000]
        pasts = [codec.numbered(one.items[:-1]) for one in block]
        scores = codec.by_chain(pasts) + 1e-6 * codec.popularity
        for row, past in zip(scores, pasts, strict=True):
            row[past] = -np.inf
        found.append(places(scores, codec.numbered([one.items[-1] for one in block])))
    scored = measures(np.concatenate(found))
    assert scored["HR@10"] == pytest.approx(0.0628, abs=0.002) and scored["NDCG@10"] == pytest.approx(0.0422, abs=0.002)
