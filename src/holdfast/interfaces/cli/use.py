"""`holdfast eval MODEL DATA` and `holdfast run MODEL INPUT...`: a trained model at work."""

import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ...apps import application, load
from ...parts.errors import DataError, HoldfastError, ModelFileError, SettingError, did_you_mean
from ...parts.table import KINDS, write_rows
from ...training import model_file
from ...training.application import Application, Scores
from ...training.model import Model
from . import live, output
from .flags import USE_FLAGS, parameters, with_flags

Kind = Literal["text", "csv", "json", "jsonl", "parquet"]
STDIN = "<stdin>"
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class QualityGateError(HoldfastError):
    """A required score was not reached."""

    exit_code = 7


class SomeFailedError(HoldfastError):
    """Some inputs could not be used; the outputs of the others are written."""

    exit_code = 5


def command(verb: str, words: Sequence[str]) -> Callable[..., int]:
    """The command, with the flags of the application whose model file the words name."""
    function = evaluate if verb == "eval" else run
    for word in words:
        if not word.startswith("-") and Path(word).is_file():
            return with_flags(function, flags_of(Path(word)))
    return with_flags(function, [])


def flags_of(path: Path) -> list[Any]:
    """The settings of a model's application that may differ each time it is used, with the model's own values."""
    try:
        header = model_file.read_header(path)
        kind = application(header["application"])
    except (HoldfastError, KeyError):
        return []  # load() will say what is wrong with the file
    return [
        parameter.replace(default=None, annotation=parameter.annotation)
        for parameter in parameters(kind, USE_FLAGS, only=lambda field: bool(field.metadata.get("use")))
    ]


def opened(path: Path, flags: dict[str, Any]) -> Model[Any, Any, Any, Any, Any, Any]:
    """A model with the settings given on the command line."""
    if not path.is_file():
        raise ModelFileError(f"{path} is not a model file", hint="train one: holdfast train TASK DATA -o MODEL")
    changed = {name: value for name, value in flags.items() if value is not None}
    return load(path).using(**changed) if changed else load(path)


def evaluate(
    model: Annotated[Path, Parameter(help="a model file")],
    data: Annotated[list[Path], Parameter(help="files or folders with answers")],
    /,
    *,
    require: Annotated[tuple[str, ...], Parameter(help="exit code 7 unless it holds, such as mase<1")] = (),
    plot: Annotated[Path | None, Parameter(help="a picture of the answers, such as out.png")] = None,
    json: Annotated[bool, Parameter(help="JSON instead of a table")] = False,
    force: Annotated[bool, Parameter(help="overwrite the picture")] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], help="say what is found in the data")] = False,
    flags: dict[str, Any],
) -> int:
    """Score MODEL on DATA with answers, beside the trivial baselines."""
    output.listen(verbose)
    conditions = [condition_of(text) for text in require]
    output.check_picture(plot)
    trained = opened(model, flags)
    examples = trained.application.examples(data[0] if len(data) == 1 else data)
    scores = trained.evaluate(examples)
    output.print_scores(scores, json)
    if plot is not None:
        picture(trained, examples, trained.predict(examples), plot, force)
    for condition in conditions:
        gate(scores, *condition)
    return 0


def condition_of(text: str) -> tuple[str, str, float]:
    """'mase<1' as (metric in small letters, comparison, number). Raises SettingError."""
    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=|<|>)\s*(-?[\d.]+(?:e-?\d+)?)\s*", text)
    if match is None:
        raise SettingError(f"--require {text!r} is not METRIC<NUMBER", hint="such as mase<1 or accuracy>=0.9")
    return match[1].lower(), match[2], float(match[3])


def gate(scores: Scores, metric: str, comparison: str, number: float) -> None:
    """Raise QualityGateError unless the model's row fulfils the condition. Capitals do not matter."""
    row = {name.lower(): value for name, value in next(iter(scores.values())).items()}
    if metric not in row:
        raise SettingError(f"--require: there is no metric {metric!r}{did_you_mean(metric, row)}")
    if not COMPARE[comparison](row[metric], number):
        raise QualityGateError(f"{metric}{comparison}{number:g} does not hold: it is {row[metric]:.6g}")


def run(
    model: Annotated[Path, Parameter(help="a model file")],
    inputs: Annotated[
        list[str] | None, Parameter(help="files or folders, or - for a stream on stdin; none: what is typed, or piped")
    ] = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="write here instead of stdout")] = None,
    format: Annotated[
        Kind | None, Parameter(name=["--format", "-f"], help="by the ending of --out; else text or csv")
    ] = None,
    plot: Annotated[Path | None, Parameter(help="a picture of the answers, such as out.png")] = None,
    json: Annotated[bool, Parameter(help="the same as --format json")] = False,
    strict: Annotated[bool, Parameter(help="stop at the first input that fails")] = False,
    force: Annotated[bool, Parameter(help="overwrite files")] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], help="say what is found in the data")] = False,
    flags: dict[str, Any],
) -> int:
    """Apply MODEL to files, or to a stream (-)."""
    output.listen(verbose)
    output.check_picture(plot)
    inputs = inputs or [STDIN]
    if inputs == [STDIN] and plot is not None:
        raise SettingError("a stream is not drawn", hint="leave --plot out, or name a file instead of -")
    if out is not None:
        output.refuse_overwriting(out, force)
    trained = opened(model, flags)
    kind = "json" if json else format or kind_of(out, trained.application)
    if kind == "text" and trained.application.prose is None:
        raise SettingError("the answers of this model are tables, not text", hint=f"--format {', '.join(KINDS)}")
    if inputs == [STDIN]:
        return live.run(trained, kind if kind in ("csv", "text") else "jsonl", out)
    rows, answers, failed = run_files(trained, inputs, strict, plot, force)
    if out is not None and kind in trained.application.formats:
        trained.application.formats[kind](answers, out)
    else:
        write_answers(trained, rows, kind, out)
    if failed:
        raise SomeFailedError(f"{len(failed)} of {len(inputs)} inputs failed: {', '.join(failed)}")
    return 0


def write_answers(
    model: Model[Any, Any, Any, Any, Any, Any], rows: list[dict[str, Any]], kind: str, out: Path | None
) -> None:
    """Rows as a table, or where a person is to read them the text that they hold, a line's end behind each."""
    prose = model.application.prose
    if kind != "text" or prose is None or any(prose.column not in row for row in rows):
        write_rows(rows, sys.stdout if out is None else out, "csv" if kind == "text" else kind)
        return
    said = "".join(f"{row[prose.column]}\n" for row in rows)
    if out is None:
        sys.stdout.write(said)
    else:
        out.write_text(said, encoding="utf-8")


def kind_of(out: Path | None, application: Application[Any, Any, Any, Any, Any, Any]) -> str:
    """The kind of file that an ending asks for: a table, or one of the application's own formats."""
    formats = application.formats
    if out is None:
        return "csv" if application.prose is None else "text"
    if out.suffix.lower() in formats:
        return out.suffix.lower()
    ending = out.suffix.removeprefix(".").lower()
    if ending not in KINDS:
        known = ", ".join([*formats, *(f".{kind}" for kind in KINDS)])
        raise SettingError(f"{out} does not end in {known}", hint="say which with --format")
    return ending


def run_files(
    model: Model[Any, Any, Any, Any, Any, Any], inputs: Sequence[str], strict: bool, plot: Path | None, force: bool
) -> tuple[list[dict[str, Any]], list[Any], list[str]]:
    """The rows and the outputs of all inputs that can be used, and the names of those that cannot."""
    rows: list[dict[str, Any]] = []
    examples: list[Any] = []
    answers: list[Any] = []
    failed: list[str] = []
    for name in inputs:
        try:
            found = model.application.examples(Path(name))
            outputs = model.predict(found)
        except DataError as error:
            if strict or len(inputs) == 1:
                raise
            output.errors.print(f"{name}: {error}", markup=False)
            failed.append(name)
            continue
        said = {} if len(inputs) == 1 else {"input": name}
        rows += [{**said, **row} for row in model.rows(outputs)]
        examples, answers = [*examples, *found], [*answers, *outputs]
    if failed and len(failed) == len(inputs):
        raise DataError("no input could be used")
    if plot is not None:
        picture(model, examples, answers, plot, force)
    return rows, answers, failed


def picture(
    model: Model[Any, Any, Any, Any, Any, Any], examples: Sequence[Any], outputs: Sequence[Any], path: Path, force: bool
) -> None:
    """Draw outputs into an image file."""
    output.refuse_overwriting(path, force)
    model.application.draw(examples, outputs).savefig(path, dpi=150)
    output.errors.print(f"drawn: {path}", markup=False)
