"""How the command line shows things: tables, bars and notes on stderr, data on stdout."""

import json
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ...parts.errors import SettingError
from ...training.application import Scores
from ...training.model import Model
from ...training.run import Report

errors = Console(stderr=True, highlight=False, soft_wrap=True)
PICTURES = (".png", ".pdf", ".svg", ".jpg")


def listen(verbose: bool) -> None:
    """Show what the library says: always its warnings, its notes on a terminal or with -v."""
    level = logging.INFO if verbose or errors.is_terminal else logging.WARNING
    handler: logging.Handler = logging.StreamHandler(sys.stderr)  # in a pipe a message is a line
    if errors.is_terminal:
        handler = RichHandler(console=errors, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", force=True)
    logging.getLogger("holdfast").setLevel(level)


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    json.dump(value, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")


def scores_table(scores: Scores, title: str = "") -> Table:
    """Who against what; the best of each column is not marked, since larger is not always better."""
    columns = list(next(iter(scores.values())))
    table = Table(title=title or None, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for who, row in scores.items():
        table.add_row(who, *(f"{row[c]:.4g}" if c in row else "" for c in columns))
    return table


def print_scores(scores: Scores, as_json: bool) -> None:
    """Scores on stdout, as a table or as JSON."""
    if as_json:
        print_json(scores)
    else:
        wide = None if sys.stdout.isatty() else 200  # in a pipe nothing is folded
        Console(highlight=False, width=wide).print(scores_table(scores))


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Named facts on stdout."""
    if as_json:
        print_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {value}\n")


def trained(model: Model[Any, Any, Any, Any, Any, Any]) -> str:
    """What came of a training, in a line."""
    weights = sum(p.numel() for p in model.net.parameters())
    card, valid = model.card, model.card["valid_loss"]
    said = "" if valid is None else f", best validation loss {valid:.4g} at step {card['best_step']}"
    return f"{weights:,} weights, {card['steps']} steps in {card['seconds']:.0f} s{said}"


def refuse_overwriting(path: Path, force: bool) -> None:
    """Raise SettingError where a file would be lost."""
    if path.exists() and not force:
        raise SettingError(f"{path} exists already", hint="--force overwrites it")
    if not path.parent.is_dir():
        raise SettingError(f"the folder {path.parent} does not exist", hint="make it first")


def check_picture(path: Path | None) -> None:
    """Raise SettingError for a picture of a kind that cannot be drawn: before the work, not after it."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise SettingError(f"{path} is no kind of picture", hint=f"known endings: {', '.join(PICTURES)}")


class Bar:
    """Training as a bar: loss, speed, remaining time. Silent where stderr is not a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("training", total=1.0, loss="", valid="", speed="")
        self.valid = ""

    def show(self, report: Report) -> None:
        """Move the bar to this step."""
        if report.valid is not None:
            self.valid = f"validation {report.valid:.4g}{' *' if report.best else ''}"
        loss, speed = f"loss {report.loss:.4g}", f"{report.step / max(report.seconds, 1e-9):.1f} steps/s"
        self.progress.update(self.task, completed=report.progress, loss=loss, valid=self.valid, speed=speed)


@contextmanager
def training_bar() -> Generator[Bar]:
    """A bar for the time of a training."""
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TextColumn("{task.fields[loss]}  {task.fields[valid]}  {task.fields[speed]}"), TimeRemainingColumn()]
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        yield Bar(progress)
