"""`holdfast demo [TASK]`: from nothing to a trained model, its scores and a picture, in about a minute."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from ...apps import APPLICATIONS, application
from ...parts.errors import SettingError, did_you_mean
from ...training.run import start
from . import output


def demo(
    task: Annotated[str, Parameter(help="what to show")] = "forecast",
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="the folder for the model and the picture")] = Path(
        "holdfast-demo"
    ),
    json: Annotated[bool, Parameter(help="the scores as JSON")] = False,
) -> int:
    """Learn from data that comes with Holdfast, score it beside the baselines, draw a picture."""
    if task not in APPLICATIONS:
        raise SettingError(f"{task!r} is not a task{did_you_mean(task, APPLICATIONS)}")
    output.listen(verbose=True)
    started = time.perf_counter()
    show = application(task).showcase()
    output.errors.print(show.story, markup=False)
    run = start(show.application, show.train, None, show.recipe)
    with output.training_bar() as bar:
        for report in run:
            bar.show(report)
    model = run.finish()
    output.errors.print(f"trained: {output.trained(model)}", markup=False)
    scores = model.evaluate(show.answers)
    output.print_scores(scores, json)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "model.safetensors")
    model.application.draw(show.answers, model.predict(show.asked)).savefig(out / f"{task}.png", dpi=150)
    console = Console(stderr=True, highlight=False)
    console.print(f"the picture: {out / f'{task}.png'}\nthe model:   {out / 'model.safetensors'}", markup=False)
    console.print(
        f"{time.perf_counter() - started:.0f} seconds. Next: holdfast train {task} YOUR.csv -o model.safetensors"
    )
    return 0
