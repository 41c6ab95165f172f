"""The only training loop. A Run is an iterator of Reports: whoever wants a bar, a plot or an early end writes a for."""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..parts import settings
from ..parts.errors import DataError, HoldfastError, SettingError
from . import optim
from .application import Application, Recipe, Source
from .inherit import inherit
from .model import Card, Model, versions

log = logging.getLogger("holdfast")

PATIENCE_FOR_NAN = 5  # steps in a row whose loss is not a number before training gives up


@dataclass(frozen=True)
class Report:
    """One optimiser step."""

    step: int  # from 1
    progress: float  # 0...1, of the steps or of the time budget, whichever is further
    loss: float  # mean over the batch's items
    parts: dict[str, float]  # named parts of the loss, means
    norm: float  # of the gradient, before clipping
    learning_rate: float
    seconds: float  # spent so far, over all resumed parts
    valid: float | None = None  # mean validation loss, where this step was followed by a look at it
    best: bool = False  # whether that was the best so far


class Run:
    """Training in progress: can stop at any step, be saved, and go on to the same bits.

    The order of examples is a pure function of (seed, epoch); initial weights and dropout come from a generator of the
    run's own, so nothing else in the process is disturbed and nothing else disturbs it.
    """

    def __init__(
        self,
        application: Application[Any, Any, Any, Any, Any, Any],
        train: Sequence[Any],
        valid: Sequence[Any],
        recipe: Recipe | None = None,
        begin: Model[Any, Any, Any, Any, Any, Any] | None = None,
    ) -> None:
        if not train:
            raise DataError("there is nothing to learn from: no training examples")
        self.application, self.train, self.valid = application, train, valid
        self.recipe = recipe or application.recipe
        self.source = f"{len(train)} examples"
        self.codec = application.prepare(train)
        if begin is not None:
            self.codec = application.grow(begin.codec, self.codec)
        self.encoded = application.encode(self.codec, train)
        self.encoded_valid = application.encode(self.codec, valid) if valid else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.net = application.network(self.codec)
            self.dice = torch.get_rng_state()
        if begin is not None:
            rows, rows_before = application.named_rows(self.codec), application.named_rows(begin.codec)
            inherit(self.net, rows, begin.net, rows_before)
            if self.codec is begin.codec:  # otherwise buffers hold what was found in the data anew
                self.net.load_state_dict(dict(begin.net.named_buffers()), strict=False)
        self.optimiser = optim.optimiser(self.net, self.recipe)
        self.average = optim.Average(self.net, self.recipe.average) if self.recipe.average > 0 else None
        self.best: dict[str, Tensor] = optim.snapshot(self.net)
        self.best_loss, self.best_step = math.inf, 0
        self.step, self.epoch, self.taken = 0, 0, 0  # taken: batches of this epoch already used
        self.seconds, self.bad_steps, self.stale = 0.0, 0, 0
        self.carried: Any = None  # a continuing stream's state, from batch to batch
        self.epoch_batches: Iterator[Any] | None = None

    @property
    def progress(self) -> float:
        """The share of training that is over, 0...1."""
        spent = self.seconds / self.recipe.seconds if self.recipe.seconds else 0.0
        return min(1.0, max(self.step / self.recipe.steps, spent))

    @property
    def finished(self) -> bool:
        """Whether steps, time or patience have run out."""
        tired = self.recipe.patience > 0 and self.stale >= self.recipe.patience
        return self.progress >= 1.0 or tired

    def __iter__(self) -> Iterator[Report]:
        while not self.finished:
            yield self.advance()

    def advance(self) -> Report:
        """One optimiser step, and a look at the validation loss where one is due."""
        started, before = time.perf_counter(), self.seconds
        rate = optim.learning_rate(self.recipe, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss, parts, norm = self.descend(self.next_batch())
        self.step += 1
        if self.average is not None:
            self.average.update(self.net, self.step)
        self.seconds = before + time.perf_counter() - started
        valid, best = None, False
        if self.step % self.recipe.validate_every == 0 or self.progress >= 1.0:
            valid, best = self.look()
            self.seconds = before + time.perf_counter() - started
        return Report(self.step, self.progress, loss, parts, norm, rate, self.seconds, valid, best)

    def next_batch(self) -> Any:
        """The next batch of this epoch, or the first of the next one."""
        for _ in range(2):
            if self.epoch_batches is None:
                rng = np.random.default_rng((self.recipe.seed, self.epoch))
                batches = self.application.batches(self.codec, self.encoded, self.recipe.batch, rng)
                self.epoch_batches = itertools.islice(batches, self.taken, None)  # a resumed run skips what it had
            for batch in self.epoch_batches:
                self.taken += 1
                return batch
            self.epoch, self.taken, self.carried, self.epoch_batches = self.epoch + 1, 0, None, None
        raise DataError("the training examples gave no batch", hint="are they shorter than the settings ask for?")

    def descend(self, batch: Any) -> tuple[float, dict[str, float], float]:
        """Loss, gradient, clip, step: in this order. Gives mean loss, mean parts and the norm before clipping."""
        self.net.train()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.dice)
            with optim.precision(self.recipe.precision):
                loss = self.application.loss(self.net, batch, self.carried)
                self.dice = torch.get_rng_state()
                mean = loss.total / loss.count
                mean.backward()
        norm = optim.clip(self.net, self.recipe.clip)
        if math.isfinite(norm) and bool(mean.isfinite()):
            self.optimiser.step()
            self.carried, self.bad_steps = detached(loss.state), 0
        else:
            self.forget_bad_step()
        parts = {name: float(part.detach()) / loss.count for name, part in loss.parts.items()}
        return float(mean.detach()), parts, norm

    def forget_bad_step(self) -> None:
        """A loss that is not a number changes nothing; several in a row end the training, aloud."""
        self.carried, self.bad_steps = None, self.bad_steps + 1
        log.warning("step %d skipped: its loss or gradient is not a finite number", self.step + 1)
        if self.bad_steps >= PATIENCE_FOR_NAN:
            raise DivergedError(
                f"the loss was not a finite number for {self.bad_steps} steps in a row, at step {self.step + 1}",
                hint=f"try a learning rate below {self.recipe.learning_rate:g}",
            )

    def look(self) -> tuple[float | None, bool]:
        """The mean validation loss (None without validation examples), and whether it is the best so far."""
        kept = None
        if self.average is not None:
            kept = optim.snapshot(self.net)
            self.net.load_state_dict(self.average.tensors)
        valid = self.validation_loss() if self.valid else None
        best = valid is None or valid < self.best_loss
        if best:
            self.best, self.best_loss, self.best_step = optim.snapshot(self.net), valid or self.best_loss, self.step
        self.stale = 0 if best else self.stale + 1
        if kept is not None:
            self.net.load_state_dict(kept)
        return valid, best and valid is not None

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Summed loss over counted items of all validation batches, in order, nothing altered."""
        self.net.eval()
        total, count, state = 0.0, 0, None
        for batch in self.application.batches(self.codec, self.encoded_valid, self.recipe.batch, None):
            loss = self.application.loss(self.net, batch, state)
            total, count, state = total + float(loss.total), count + loss.count, loss.state
        if count == 0:
            raise DataError("the validation examples gave no batch", hint="hand in more, or longer ones")
        return total / count

    def finish(self) -> Model[Any, Any, Any, Any, Any, Any]:
        """The best model so far, calibrated on the validation examples, with its card."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            net = self.application.network(self.codec)
        net.load_state_dict(self.best)
        net.eval()
        codec = self.codec
        if self.valid:
            with torch.no_grad():
                codec = self.application.calibrate(net, codec, self.valid)
        return Model(self.application, codec, net, self.card())

    def card(self) -> Card:
        """What there is to know about how the model came to be."""
        return {
            "data": self.source,
            "recipe": settings.to_json(self.recipe, {}),
            "examples": {"train": len(self.train), "valid": len(self.valid)},
            "steps": self.step,
            "best_step": self.best_step,
            "valid_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "seconds": round(self.seconds, 1),
            "versions": versions(),
        }


class DivergedError(HoldfastError):
    """Training met infinities that would not go away."""

    exit_code = 2  # another learning rate would do: a setting is wrong, not the program


def detached(state: Any) -> Any:
    """A carried state, cut off from the graph of the batch that made it."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        items = [detached(item) for item in state]
        return type(state)(*items) if hasattr(state, "_fields") else tuple(items)
    return state


def start(
    application: Application[Any, Any, Any, Any, Any, Any],
    data: Source,
    valid: Source | None,
    recipe: Recipe | None,
    begin: Model[Any, Any, Any, Any, Any, Any] | None = None,
) -> Run:
    """A run that has not begun. Without ``valid`` the application holds a part of the data out.

    ``begin`` is a trained model from which it goes on. Raises SettingError where that has another task or settings.
    """
    check_beginning(application, begin)
    recipe = recipe or application.recipe
    examples = application.examples(data)
    if valid is None:
        rng = np.random.default_rng(recipe.seed)
        run = Run(application, *application.split(examples, rng), recipe, begin)
    else:
        run = Run(application, examples, application.examples(valid), recipe, begin)
    run.source = name_of(data) or run.source
    return run


def check_beginning(application: Application[Any, Any, Any, Any, Any, Any], begin: Any) -> None:
    """Raise SettingError where a model is not one that this application could go on with."""
    if begin is None:
        return
    if type(begin.application) is not type(application):
        raise SettingError(f"the model to start from is one of {begin.application.task}, not of {application.task}")
    for field in fields(application):
        mine, its = getattr(application, field.name), getattr(begin.application, field.name)
        if mine != its and not field.metadata.get("use"):
            raise SettingError(
                f"{field.name} is {its!r} in the model to start from, not {mine!r}", hint="leave the setting as it was"
            )


def name_of(data: Source) -> str:
    """The names of files and folders, without where they lie; nothing for other sources."""
    paths = [data] if isinstance(data, (str, Path)) else data if isinstance(data, (list, tuple)) else []
    return ", ".join(Path(path).name for path in paths if isinstance(path, (str, Path)))


def train(
    application: Application[Any, Any, Any, Any, Any, Any],
    data: Source,
    valid: Source | None,
    recipe: Recipe | None,
    begin: Model[Any, Any, Any, Any, Any, Any] | None = None,
) -> Model[Any, Any, Any, Any, Any, Any]:
    """From data to a calibrated model; what is said on the way goes to the log "holdfast"."""
    run = start(application, data, valid, recipe, begin)
    for report in run:
        if report.valid is not None:
            log.info("step %d: loss %.5g, validation %.5g", report.step, report.loss, report.valid)
    return run.finish()
