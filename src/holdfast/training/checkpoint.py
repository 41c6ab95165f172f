"""A run on disk: everything it needs to go on to the same bits, in one file that is whole or not there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..parts import settings
from ..parts.errors import ModelFileError
from . import model_file
from .application import Recipe
from .model import describe
from .run import Run

COUNTERS = ("step", "epoch", "taken", "seconds", "bad_steps", "stale", "best_step")


def save(run: Run, path: str | Path) -> None:
    """Write a run. After a kill at any moment ``path`` holds this run, or the one that was there before."""
    tensors = {f"net.{name}": tensor for name, tensor in run.net.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in run.best.items()}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.tensors.items()}
    for number, state in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in state.items()}
    tensors["dice"] = run.dice
    carried = flatten(run.carried, tensors, "carried")
    header = {
        "application": run.application.task,
        "settings": settings.to_json(run.application, {}),
        "recipe": settings.to_json(run.recipe, {}),
        "data": fingerprint(run),
        "progress": {name: getattr(run, name) for name in COUNTERS},
        "best_loss": settings.to_json(run.best_loss, {}),
        "carried": carried,
    }
    model_file.write(Path(path), "run", header, {name: t.clone() for name, t in tensors.items()})


def resume(run: Run, path: str | Path) -> None:
    """Put a fresh run where the saved one stood. Raises ModelFileError where the file is of another run."""
    path = Path(path)
    contents = model_file.read(path, "run")
    header = contents.header
    try:
        compare(run, header, path)
        for name in COUNTERS:
            setattr(run, name, header["progress"][name])
        run.best_loss = settings.from_json(float, header["best_loss"], {})
        run.carried = unflatten(header["carried"], contents.tensors)
        run.dice = contents.tensors["dice"]
        run.net.load_state_dict(contents.under("net."))
        run.best = contents.under("best.")
        if run.average is not None:
            run.average.tensors = contents.under("average.")
        load_optimiser(run, contents)
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ModelFileError(f"{path} is not a run this Holdfast can go on with: {error}") from None
    run.epoch_batches = None


def compare(run: Run, header: Mapping[str, Any], path: Path) -> None:
    """Raise ModelFileError where a saved run had another application, settings, recipe or data."""
    mine = {
        "application": run.application.task,
        "settings": settings.to_json(run.application, {}),
        "recipe": settings.to_json(run.recipe, {}),
        "data": fingerprint(run),
    }
    # A setting that came with a later Holdfast was what its default does now.
    usual = {"settings": settings.to_json(type(run.application)(), {}), "recipe": settings.to_json(Recipe(), {})}
    free = {field.name for field in fields(run.application) if field.metadata.get("use")}  # they change no training
    for what, now in mine.items():
        before = {**usual[what], **header[what]} if what in usual else header[what]
        if isinstance(before, dict) and isinstance(now, dict):
            names = {*before, *now} - (free if what == "settings" else set())
            names = sorted(name for name in names if before.get(name) != now.get(name))
            before, now = ({name: side.get(name) for name in names} for side in (before, now))
        if before != now:
            raise ModelFileError(
                f"{path} was started with other {what}: {json.dumps(before):.200}, now {json.dumps(now):.200}",
                hint="go on with the same, or start anew without --resume",
            )


def fingerprint(run: Run) -> dict[str, Any]:
    """The training data, as far as the codec and the counts tell: enough to refuse other data."""
    arrays: dict[str, Any] = {}
    said = json.dumps(describe(run.application, run.codec, arrays)["codec"], sort_keys=True)
    digest = hashlib.sha256(said.encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return {"train": len(run.train), "valid": len(run.valid), "codec": digest.hexdigest()}


def load_optimiser(run: Run, contents: model_file.Contents) -> None:
    """Moments and step counts of every parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in contents.under("optimiser.").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    groups = run.optimiser.state_dict()["param_groups"]
    run.optimiser.load_state_dict({"state": state, "param_groups": groups})


def flatten(state: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A carried state as JSON: tensors go to ``tensors``, tuples become lists."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return name
    if isinstance(state, tuple):
        return [flatten(item, tensors, f"{name}.{n}") for n, item in enumerate(state)]
    if state is None:
        return None
    raise TypeError(f"a carried state is made of tensors, tuples and None, not {type(state).__name__}")


def unflatten(said: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of flatten; named tuples come back as plain tuples."""
    if isinstance(said, list):
        return tuple(unflatten(item, tensors) for item in said)
    return None if said is None else tensors[said]
