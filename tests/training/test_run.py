"""The loop: order of its acts, seeds, resuming, the best model, and what it does with infinities."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.parts.errors import DataError
from holdfast.training import optim
from holdfast.training.application import Loss, Recipe
from holdfast.training.run import DivergedError, Run, train

from .toys import Speller

EXAMPLES = Speller().synthesize(5, np.random.default_rng(0))


def new_run(speller: Speller | None = None, **changes: Any) -> Run:
    return Run(speller or Speller(), EXAMPLES[1:], EXAMPLES[:1], replace(Speller.recipe, **changes))


def exhausted(run: Run) -> Run:
    for _ in run:
        pass
    return run


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.tiny
def test_it_learns_and_beats_the_uniform_guess() -> None:
    model = Speller().fit(EXAMPLES)
    scores = model.evaluate(EXAMPLES[:1])
    assert scores["holdfast"]["nats"] < 0.6 * scores["uniform"]["nats"]


def test_seeds_decide_and_nothing_else_does() -> None:
    first = exhausted(new_run(seed=0))
    torch.manual_seed(99)
    torch.rand(7)
    assert same(first.net, exhausted(new_run(seed=0)).net)
    assert not same(first.net, exhausted(new_run(seed=1)).net)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    exhausted(new_run())
    assert torch.equal(torch.rand(4), want)


def test_clips_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(clip=0.01)
    norms: list[float] = []
    step = run.optimiser.step

    def watched() -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in run.net.parameters() if p.grad is not None]).norm()))
        step()

    monkeypatch.setattr(run.optimiser, "step", watched)
    report = run.advance()
    assert report.norm > 0.01 and norms[0] == pytest.approx(0.01, rel=1e-3)


def test_the_report_carries_the_mean_over_items() -> None:
    run = new_run(steps=1, batch=3)
    report = run.advance()
    assert report.parts["nats"] == pytest.approx(report.loss, rel=1e-6)
    assert 0.3 < report.loss < 3.0


def test_the_best_model_is_kept_not_the_last() -> None:
    run = new_run(average=0.0, steps=30, validate_every=10)
    reports = [report for report in run if report.valid is not None]
    best = min(reports, key=lambda report: report.valid or 0)
    assert run.best_step == best.step and [r.step for r in reports if r.best][-1] == best.step
    with torch.no_grad():
        next(iter(run.net.parameters())).fill_(100.0)
    assert not same(run.net, run.finish().net)


def test_patience_ends_a_run_that_no_longer_improves() -> None:
    run = exhausted(new_run(learning_rate=0.0, weight_decay=0.0, average=0.0, steps=500, validate_every=2, patience=3))
    assert run.step == 8  # the first look is the best one, three more are not better


def test_a_time_budget_ends_the_run_and_bends_the_schedule() -> None:
    run = new_run(steps=10**6, seconds=0.3, validate_every=10**6)
    reports = list(run)
    assert 0.3 <= run.seconds < 3.0 and reports[-1].valid is not None
    assert reports[-1].learning_rate < 0.2 * max(report.learning_rate for report in reports)


def test_weight_averaging_is_what_validation_sees() -> None:
    plain, averaged = exhausted(new_run(average=0.0)), exhausted(new_run(average=0.9))
    assert same(plain.net, averaged.net)
    assert not same(plain.finish().net, averaged.finish().net)


def test_carried_state_reaches_the_next_batch_and_is_cut_off() -> None:
    run = new_run()
    run.advance()
    h, c = run.carried
    assert h.abs().sum() > 0 and not h.requires_grad and not c.requires_grad


class Broken(nn.Module):
    def __init__(self, good_steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.left = good_steps

    def forward(self) -> torch.Tensor:
        self.left -= 1
        return self.weight.sum() * (1.0 if self.left >= 0 else float("nan"))


def break_loss(monkeypatch: pytest.MonkeyPatch, good_steps: int) -> None:
    def network(self: Speller, codec: Any) -> nn.Module:
        return Broken(good_steps)

    def loss(self: Speller, net: nn.Module, batch: Any, state: Any = None) -> Loss:
        return Loss(net(), 1)

    monkeypatch.setattr(Speller, "network", network)
    monkeypatch.setattr(Speller, "loss", loss)


def test_a_loss_that_is_no_number_changes_nothing_and_then_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    break_loss(monkeypatch, good_steps=2)
    run = new_run(validate_every=1000)
    for _ in range(3):
        run.advance()
    assert run.net.weight.isfinite().all()  # type: ignore[union-attr, operator]
    with pytest.raises(DivergedError, match="learning rate"):
        exhausted(run)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(DataError, match="no training examples"):
        Run(Speller(), [], [])


def test_no_batch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Iterator[Any]:
        return iter(())

    monkeypatch.setattr(Speller, "batches", none)
    with pytest.raises(DataError, match="no batch"):
        new_run().advance()


def test_training_without_validation_keeps_the_last() -> None:
    run = exhausted(Run(Speller(), EXAMPLES, [], replace(Speller.recipe, average=0.0)))
    assert same(run.net, run.finish().net) and run.finish().card["valid_loss"] is None


def test_schedules() -> None:
    cycle = Recipe(learning_rate=1.0, schedule="one-cycle", warmup=0.25)
    rates = [optim.learning_rate(cycle, p / 100) for p in range(101)]
    assert rates[0] == pytest.approx(0.04) and max(rates) == rates[25] == 1.0 and rates[100] == pytest.approx(1e-4)
    cosine = Recipe(learning_rate=1.0, schedule="cosine")
    assert optim.learning_rate(cosine, 0.5) == pytest.approx(0.5) and optim.learning_rate(cosine, 1.0) < 1e-9
    assert optim.learning_rate(Recipe(learning_rate=0.3, schedule="constant"), 0.9) == 0.3


def test_train_is_the_loop_and_nothing_more() -> None:
    model = train(Speller(), EXAMPLES[1:], EXAMPLES[:1], None)
    assert same(model.net, exhausted(new_run()).finish().net)


def test_the_average_follows_the_weights_from_the_first_step_on() -> None:
    """So that two steps of training are not lost; later, at every fourth step, as close as at every one."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average, exact = optim.Average(net, 0.98), 0.0
    for step in range(1, 601):
        net.weight.data.fill_(float(step))
        average.update(net, step)
        keep = min(0.98, (1 + step) / (10 + step))
        exact = keep * exact + (1 - keep) * step
        if step <= optim.Average.FIRST:
            assert average.tensors["weight"].item() == pytest.approx(exact, rel=1e-4)
    assert average.tensors["weight"].item() == pytest.approx(exact, abs=2)  # of a lag of 49 steps


def test_two_steps_change_the_model() -> None:
    run = new_run(steps=2, average=0.998)
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    after = exhausted(run).finish().net.state_dict()
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
