"""Which items may be recommended, and finding them without scoring all: the answers stay those of the exact way."""

import dataclasses
import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import holdfast
from holdfast.apps.recommend import Recommender
from holdfast.parts.errors import DataError, MissingExtraError, ResourceError, SettingError
from holdfast.parts.events import answering, index_file, retrieval
from holdfast.parts.events.history import History
from holdfast.parts.events.next_item import NextItem
from holdfast.parts.events.reading import Events
from holdfast.parts.packing import pack, unpack
from holdfast.training import checkpoint
from holdfast.training.application import Recipe
from holdfast.training.model import Model
from holdfast.training.run import Run

SMALL = Recommender(width=16, hidden=16, dropout=0.2)
QUICK = Recipe(steps=150, batch=32, learning_rate=1e-2, validate_every=50)
ITEMS = "sku,kind,price\n" + "\n".join(
    [
        "tent,sleep|outdoors,120",
        "sleeping bag,sleep|outdoors,60",
        "stove,cook|outdoors,35.5",
        "pan,cook,20",
        "whisk,cook,",
        "boots,outdoors,80",
        "submarine,outdoors,9",
    ]
)


def shoppers(count: int, seed: int = 0) -> list[History]:
    return SMALL.synthesize(count, np.random.default_rng(seed))


@cache
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return SMALL.fit(shoppers(200), recipe=QUICK)


def items_file(folder: Path) -> str:
    (folder / "items.csv").write_text(ITEMS)
    return str(folder / "items.csv")


def recommended(**use: Any) -> set[str]:
    (found,) = model().using(top=100, repeat=True, **use).predict([History("x", ("tent",))])
    return set(found.items)


# --- attributes ---


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ((), {"tent", "sleeping bag", "stove", "pan", "whisk", "boots"}),
        (("kind=cook",), {"stove", "pan", "whisk"}),
        (("kind = cook", "kind=outdoors"), {"stove"}),
        (("kind!=outdoors",), {"pan", "whisk"}),
        (("price<=35.5",), {"stove", "pan"}),
        (("price>35.5", "price<120"), {"sleeping bag", "boots"}),
    ],
)
def test_items_are_those_that_meet_all_conditions(where: tuple[str, ...], left: set[str], tmp_path: Path) -> None:
    assert recommended(items=items_file(tmp_path), where=where) == left


def test_list_and_table_hold_together(tmp_path: Path) -> None:
    (tmp_path / "stock.txt").write_text("pan\nlantern\n")
    both = {"among": str(tmp_path / "stock.txt"), "items": items_file(tmp_path)}
    assert recommended(**both, where=("kind=cook",)) == {"pan"}
    with pytest.raises(DataError, match="is among those that"):
        recommended(**both, where=("kind=sleep",))


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("kind", SettingError, "'kind' is not a condition"),
        ("price<cheap", SettingError, "'cheap' is not a number"),
        ("knid=cook", DataError, "no column 'knid'; did you mean 'kind'"),
        ("kind=cok", DataError, "has kind=cok; did you mean 'cook'"),
        ("price>500", DataError, "has price>500"),
        ("price=9", DataError, "names no item that the model knows"),
    ],
)
def test_what_no_item_can_meet_is_named(where: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        recommended(items=items_file(tmp_path), where=(where,))


def test_conditions_need_a_table() -> None:
    with pytest.raises(SettingError, match="--where needs a table of items"):
        recommended(where=("kind=cook",))


def test_a_stream_keeps_to_the_conditions(tmp_path: Path) -> None:
    stream = model().using(items=items_file(tmp_path), where=("kind=sleep",)).stream()
    (piece,) = model().application.pieces(io.BytesIO(b"user,item\na,tent\na,\n"))
    (answer,) = stream.push(piece)
    assert answer.items == ("sleeping bag",)


# --- retrieval ---


def exact_and_near(model: Model[Any, Any, Any, Any, Any, Any], asked: list[History], **use: Any) -> list[Any]:
    pytest.importorskip("usearch")
    return [model.using(retrieval=how, **use).predict(asked) for how in ("exact", "approximate")]


def assert_same(exact: list[Any], near: list[Any]) -> None:
    assert len(exact) == len(near) > 0
    for one, other in zip(exact, near, strict=True):
        assert (other.user, other.items, other.reasons) == (one.user, one.items, one.reasons)
        np.testing.assert_allclose(other.scores, one.scores, rtol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("repeat", [False, True])
def test_of_few_items_the_index_finds_what_all_scores_say(repeat: bool) -> None:
    asked = [*shoppers(20, seed=4), History("nobody", ()), History("stranger", ("submarine",))]
    assert_same(*exact_and_near(model(), asked, repeat=repeat, top=7))


@pytest.mark.parametrize("where", [("kind=cook",), ("price>20",)])
def test_the_index_keeps_to_the_conditions(where: tuple[str, ...], tmp_path: Path) -> None:
    asked = [*shoppers(20, seed=4), History("nobody", ())]
    assert_same(*exact_and_near(model(), asked, items=items_file(tmp_path), where=where))


def test_where_the_index_gives_too_few_all_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "MARGIN", 0)
    monkeypatch.setattr(answering, "near", lambda *_: None)
    assert_same(*exact_and_near(model(), shoppers(5, seed=4), top=7))


def random_model(items: int, members: int = 1) -> Model[Any, Any, Any, Any, Any, Any]:
    """Not trained: a network over many items, with biases that matter, and rules from a few events."""
    histories = [History(f"u{n}", (f"i{n}", f"i{7 * n % items}", f"i{(n + 1) % items}")) for n in range(items)]
    app = Recommender(width=16, hidden=16, members=members)
    codec = dataclasses.replace(app.prepare(histories), weight=0.8, temperature=1.3)
    net = app.network(codec)
    assert isinstance(net, NextItem)
    for member in net.each():
        member.bias.data.normal_(std=0.5)
    return Model(app, codec, net, {})


@pytest.mark.parametrize("members", [1, 3])
def test_of_many_items_nearly_all_of_the_best_are_found(members: int) -> None:
    many = random_model(6000, members)
    asked = [History(f"a{n}", (f"i{n}", f"i{5 * n}", f"i{11 * n}")) for n in range(1, 60)]
    exact, near = exact_and_near(many, asked)
    hits = [len(set(one.items) & set(other.items)) for one, other in zip(exact, near, strict=True)]
    assert np.mean(hits) > 9.5
    for one, other in zip(exact, near, strict=True):
        if one.items[0] == other.items[0]:  # the sum over all items is estimated from 4096 of them
            assert other.scores[0] == pytest.approx(one.scores[0], rel=0.05)


def test_an_allowed_third_is_searched_for_further(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many = random_model(6000)
    (tmp_path / "third.txt").write_text("\n".join(f"i{n}" for n in range(0, 6000, 3)))
    asked = [History(f"a{n}", (f"i{n}", f"i{5 * n}")) for n in range(1, 40)]
    monkeypatch.setattr(many.net, "logits", None)  # no fall back on scoring all
    near = many.using(retrieval="approximate", among=str(tmp_path / "third.txt")).predict(asked)
    monkeypatch.undo()
    exact = many.using(among=str(tmp_path / "third.txt")).predict(asked)
    assert all(int(item[1:]) % 3 == 0 for one in near for item in one.items)
    assert np.mean([len(set(a.items) & set(b.items)) for a, b in zip(exact, near, strict=True)]) > 9.5


def test_the_index_is_built_once_and_streams_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    built: list[int] = []
    graph_of = retrieval.graph_of
    monkeypatch.setattr(retrieval, "graph_of", lambda rows, bias: built.append(len(rows)) or graph_of(rows, bias))
    fresh = random_model(50).using(retrieval="approximate")
    fresh.stream()
    fresh.using(top=3).stream()
    fresh.predict([History("a", ("i1",))])
    assert built == [50]


def test_an_index_is_kept_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    built: list[int] = []
    graph_of = retrieval.graph_of
    monkeypatch.setattr(retrieval, "graph_of", lambda rows, bias: built.append(len(rows)) or graph_of(rows, bias))
    path = tmp_path / "items.index"
    asked = [History(f"a{n}", (f"i{n}", f"i{5 * n}")) for n in range(1, 20)]
    many = random_model(900)
    many.save(tmp_path / "m.safetensors")
    kept = many.using(retrieval="approximate", index=str(path)).predict(asked)
    again = holdfast.load(tmp_path / "m.safetensors").using(retrieval="approximate", index=str(path)).predict(asked)
    assert built == [900]
    for one, other in zip(kept, again, strict=True):
        assert one.items == other.items and np.array_equal(one.scores, other.scores)


def test_the_index_of_another_model_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("usearch")
    use = {"retrieval": "approximate", "index": str(tmp_path / "items.index")}
    random_model(60).using(**use).stream()
    other = random_model(60)
    net = other.net
    assert isinstance(net, NextItem)
    net.each()[0].bias.data[7] += 30
    with caplog.at_level("WARNING", "holdfast"):
        (found,) = other.using(**use).predict([History("a", ("i1",))])
    assert "index of another model" in caplog.text
    assert found.items[0] == other.codec.items[6]
    monkeypatch.setattr(retrieval, "graph_of", None)  # what is kept now is the new one
    retrieval.ItemIndex(net, tmp_path / "items.index")


@pytest.mark.parametrize("content", [b"", b"user,item\n1,2\n", pack("another kind", {}, {})])
def test_a_file_that_is_no_index_is_left_alone(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    (tmp_path / "events.csv").write_bytes(content)
    with pytest.raises(DataError, match="is not an index of items"):
        random_model(20).using(retrieval="approximate", index=str(tmp_path / "events.csv")).stream()
    assert (tmp_path / "events.csv").read_bytes() == content


@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\0" * 500])
def test_a_damaged_index_is_an_error(graph: bytes, tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    net, path = random_model(20).net, tmp_path / "items.index"
    assert isinstance(net, NextItem)
    retrieval.ItemIndex(net, path)
    values, _ = unpack(index_file.KIND, path.read_bytes())
    path.write_bytes(pack(index_file.KIND, values, {"graph": np.frombuffer(graph, dtype=np.uint8)}))
    with pytest.raises(DataError, match=r"items\.index"):
        retrieval.ItemIndex(net, path)


def test_an_index_that_could_not_be_kept_is_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    monkeypatch.setattr(retrieval, "graph_of", None)
    with pytest.raises(ResourceError, match="cannot be written"):
        random_model(20).using(retrieval="approximate", index=str(tmp_path / "no" / "items.index")).stream()


def test_where_the_disk_is_full_the_index_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("usearch")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("holdfast.engine.durable.write", full)
    near = random_model(20).using(retrieval="approximate", index=str(tmp_path / "items.index"))
    assert near.predict([History("a", ("i1",))])[0].items
    assert "No space left" in caplog.text and not list(tmp_path.iterdir())


def test_without_usearch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match=r"holdfast\[ann\]"):
        random_model(20).using(retrieval="approximate").stream()


# --- several networks ---


def test_members_answer_with_the_mean_of_their_logits() -> None:
    net = random_model(40, members=3).net
    assert isinstance(net, NextItem)
    items = torch.tensor([[3, 9, 1], [5, 5, 2]])
    vectors, memory = net(items)
    alone = [one(items, None) for one in net.each()]
    wanted = torch.stack([v @ one.embedding.weight.T + one.bias for (v, _), one in zip(alone, net.each(), strict=True)])
    torch.testing.assert_close(net.logits(vectors[:, -1])[:, 1:], wanted.mean(0)[:, -1, 1:])
    rows, bias = net.rows()
    torch.testing.assert_close(vectors[0, 0] @ rows.T + bias, wanted.mean(0)[0, 0])
    after, _ = net(items[:, :1], memory)  # what each remembers is given back to it
    again, _ = net(torch.cat([items, items[:, :1]], dim=1))
    torch.testing.assert_close(after[:, 0], again[:, -1])


def test_members_learn_apart() -> None:
    """The gradient of one does not depend on what another has learned; neither their weights nor dice are shared."""

    def gradients(others: float) -> list[torch.Tensor | None]:
        net = random_model(40, members=2).net
        assert isinstance(net, NextItem)
        first, second = net.each()
        assert not torch.equal(first.lstm.weight_ih_l0, second.lstm.weight_ih_l0)
        second.out.weight.data.mul_(others)
        vectors, _ = net(torch.tensor([[3, 9, 1]]))
        net.loss(vectors[0], torch.tensor([9, 1, 4])).backward()
        return [one.grad for one in first.parameters()]

    torch.manual_seed(0)
    one = gradients(1.0)
    torch.manual_seed(0)
    other = gradients(5.0)
    for a, b in zip(one, other, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def test_several_networks_learn_go_on_and_stream() -> None:
    app = dataclasses.replace(SMALL, members=2)
    train, valid = app.split(shoppers(60), np.random.default_rng(0))
    run = Run(app, train, valid, QUICK)
    list(run)
    trained = run.finish()
    more = [*train, History("new", ("tent", "kayak"))]
    grown = Run(app, more, valid, QUICK, begin=trained)
    for name, table in grown.net.state_dict().items():
        if name.endswith("embedding.weight"):
            row = grown.codec.items.index("tent") + 1, trained.codec.items.index("tent") + 1
            assert torch.equal(table[row[0]], trained.net.state_dict()[name][row[1]])
    asked = shoppers(5, seed=7)
    stream = trained.stream()
    for one in asked:
        stream.push(Events([one.user] * len(one.items), list(one.items), None))
    for streamed, whole in zip(stream.flush(), trained.predict(asked), strict=True):
        assert streamed.items == whole.items


# --- a million items: nothing may cost what the catalogue costs ---


TABLE = "members.0.embedding.weight"


def large(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    monkeypatch.setattr("holdfast.parts.events.next_item.LARGEST_FULL", 3)
    app = dataclasses.replace(SMALL, negatives=4)
    train, valid = app.split(shoppers(60), np.random.default_rng(0))
    return Run(app, train, valid, dataclasses.replace(QUICK, batch=2, **changes))


def test_a_step_moves_the_rows_it_met_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run = large(monkeypatch)
    before = run.net.state_dict()[TABLE].clone()
    run.advance()
    gradient = run.net.get_parameter(TABLE).grad
    assert gradient is not None and gradient.is_sparse
    moved = (run.net.state_dict()[TABLE] != before).any(1).nonzero().flatten().tolist()
    assert set(moved) <= set(gradient.coalesce().indices()[0].tolist()) and 0 < len(moved) < len(before)
    (state,) = [state for state in run.optimiser.state.values() if "sums" in state]
    assert state["sums"].shape == (len(before),)


def test_the_clip_sees_rows_that_came_twice_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run = large(monkeypatch, clip=1e-3)
    norm = run.advance().norm
    squares = 0.0
    for parameter in run.net.parameters():
        assert parameter.grad is not None
        squares += float(
            parameter.grad.to_dense().square().sum() if parameter.grad.is_sparse else parameter.grad.square().sum()
        )
    assert norm > 1e-3 and squares**0.5 == pytest.approx(1e-3, rel=1e-2)


def test_with_sparse_gradients_it_resumes_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    straight, broken = (large(monkeypatch, steps=6, validate_every=3) for _ in range(2))
    list(straight)
    for _ in range(4):
        broken.advance()
    checkpoint.save(broken, tmp_path / "a.run")
    resumed = large(monkeypatch, steps=6, validate_every=3)
    checkpoint.resume(resumed, tmp_path / "a.run")
    list(resumed)
    for name, tensor in straight.net.state_dict().items():
        assert bool((resumed.net.state_dict()[name] == tensor).all()), name
