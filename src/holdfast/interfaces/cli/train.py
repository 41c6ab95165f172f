"""`holdfast train TASK DATA -o MODEL`."""

import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ...apps import application, load
from ...parts.errors import HoldfastError, SettingError
from ...training import checkpoint
from ...training.application import Recipe
from ...training.run import Run
from ...training.run import start as started
from . import output
from .flags import MODEL_FLAGS, RECIPE_FLAGS, parameters, with_flags


class InterruptedTrainingError(HoldfastError):
    """A signal ended the training; the checkpoint is written."""

    def __init__(self, number: int, saved: Path) -> None:
        name = signal.Signals(number).name
        super().__init__(f"training stopped by {name}; it is kept in {saved}", hint="go on with --resume")
        self.exit_code = 128 + number


def command(task: str, words: Sequence[str] = ()) -> Callable[..., int]:
    """The command for one task: its settings and its recipe are the flags; those of a model to start from, if named."""
    kind = application(task)
    begin = beginning(words)

    def train(
        data: Annotated[list[Path], Parameter(help="files or folders to learn from")],
        /,
        *,
        out: Annotated[Path, Parameter(name=["--out", "-o"], help="the model file to write")],
        valid: Annotated[Path | None, Parameter(help="validation data; otherwise a part is held out")] = None,
        start: Annotated[Path | None, Parameter(help="a trained model to go on from, with its settings")] = None,
        resume: Annotated[bool, Parameter(help="go on with the interrupted training of this model file")] = False,
        checkpoint_every: Annotated[float, Parameter(help="seconds between two checkpoints")] = 30.0,
        force: Annotated[bool, Parameter(help="overwrite the model file")] = False,
        json: Annotated[bool, Parameter(help="the model's card as JSON on stdout")] = False,
        verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], help="say what is found in the data")] = False,
        flags: dict[str, Any],
    ) -> int:
        output.listen(verbose)
        output.refuse_overwriting(out, force or resume)
        app, recipe = told_apart(kind, flags)
        saved = out.with_name(out.name + ".run")
        if resume and not saved.exists():
            raise SettingError(f"there is nothing to go on with: {saved} does not exist", hint="train without --resume")
        source = data[0] if len(data) == 1 else data
        run = started(app, source, valid, recipe, None if start is None else load(start))
        if resume:
            checkpoint.resume(run, saved)
            output.errors.print(f"going on from step {run.step} of {saved}")
        follow(run, saved, checkpoint_every)
        model = run.finish()
        model.save(out)
        saved.unlink(missing_ok=True)
        output.errors.print(f"{out}: {output.trained(model)}", markup=False)
        if json:
            output.print_json(model.card)
        return 0

    recipe_flags = parameters(Recipe, RECIPE_FLAGS, kind.recipe)
    return with_flags(train, [*parameters(kind, MODEL_FLAGS, begin), *recipe_flags])


def told_apart(kind: Any, flags: dict[str, Any]) -> tuple[Any, Recipe]:
    """The application with its settings, and the recipe, from the flags of both."""
    names = Recipe.__dataclass_fields__
    recipe = Recipe(**{name: value for name, value in flags.items() if name in names})
    return kind(**{name: value for name, value in flags.items() if name not in names}), recipe


def beginning(words: Sequence[str]) -> Any:
    """The application of the model file that stands behind --start; None where there is none, or no model."""
    places = [place for place, word in enumerate(words[:-1]) if word == "--start"]
    named = [word.removeprefix("--start=") for word in words if word.startswith("--start=")]
    paths = [Path(word) for word in (*(words[place + 1] for place in places), *named)]
    try:
        return load(paths[0]).application if paths else None
    except HoldfastError:
        return None  # the command itself will say what is wrong with it


def follow(run: Run, saved: Path, every: float) -> None:
    """Train to the end with a bar and regular checkpoints. SIGINT and SIGTERM end it after one last checkpoint."""
    due = time.monotonic() + every
    with caught_signals() as caught, output.training_bar() as bar:
        for report in run:
            bar.show(report)
            if caught or time.monotonic() >= due:
                checkpoint.save(run, saved)
                due = time.monotonic() + every
            if caught:
                raise InterruptedTrainingError(caught[0], saved)


@contextmanager
def caught_signals() -> Generator[list[int]]:
    """The numbers of signals that asked us to stop; a second one of a kind stops at once, as ever."""
    caught: list[int] = []
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: Any) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
