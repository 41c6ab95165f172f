"""`holdfast show MODEL`: what a model file holds."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from ...apps import load
from . import output


def show(
    model: Annotated[Path, Parameter(help="a model file")],
    /,
    *,
    json: Annotated[bool, Parameter(help="JSON instead of text")] = False,
) -> int:
    """Describe a model file."""
    trained = load(model)
    facts: dict[str, Any] = {
        "task": trained.application.task,
        "does": trained.application.summary,
        "weights": sum(p.numel() for p in trained.net.parameters()),
        "bytes": model.stat().st_size,
        **{f"settings.{name}": value for name, value in dataclasses.asdict(trained.application).items()},
        **{f"codec.{f.name}": short(getattr(trained.codec, f.name)) for f in dataclasses.fields(trained.codec)},
        **{f"card.{name}": value for name, value in trained.card.items()},
    }
    output.print_facts(facts, json)
    return 0


def short(value: Any) -> Any:
    """A fact of a codec, not longer than a line."""
    if isinstance(value, np.ndarray):
        return f"array {list(value.shape)}"
    text = str(value)
    return value if len(text) <= 100 else f"{text[:97]}..."
