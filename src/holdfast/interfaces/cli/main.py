"""`holdfast`: where the command line begins, and where every error becomes one message and one exit code.

Exit codes: 0 done, 1 our bug, 2 usage, 3 data, 4 model file, 5 some inputs failed, 6 resources, 7 quality gate,
130/143 interrupted with a checkpoint written.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml
from rich.console import Console

from ... import __version__
from ...apps import APPLICATIONS
from ...parts.errors import HoldfastError, SettingError

STREAM = "<stdin>"
HELP = """LSTM networks that are fast on a CPU, and applications that work on the files people have.

A model knows its task, so only `train` names one. Data goes to stdout, everything else to stderr; `-` is a stream."""
TASKS = "\n".join(f"  {task:<10} {summary}" for task, (_, _, summary) in APPLICATIONS.items())

# verb -> (module:function, help). Text only, so that --help imports neither torch nor an application.
VERBS = {
    "eval": (
        "use:evaluate",
        "Score MODEL on DATA with answers, beside the trivial baselines. MODEL --help lists its settings.",
    ),
    "run": ("use:run", "Apply MODEL to files, or to a stream (-). MODEL --help lists its settings."),
    "show": ("show:show", "Describe a model file."),
    "doctor": ("doctor:doctor", "Versions, CPU, kernels, a self-test: what to send with a bug report."),
    "demo": ("demo:demo", "Learn a few real series, beat the baselines, draw the forecast."),
}


def build(tokens: Sequence[str], config: Path | None) -> App:
    """The command line for these words; only what they name is imported."""
    layers = [] if config is None else [Toml(config, must_exist=True, allow_unknown=False, use_commands_as_keys=False)]
    app = App(
        name="holdfast",
        help=HELP,
        version=__version__,
        help_format="markdown",
        config=layers,
        default_parameter=Parameter(negative=()),  # no --no-force, no --empty-past
    )
    train = App(name="train", help=f"Train a model: holdfast train TASK DATA -o MODEL.\n\nTasks:\n\n{TASKS}")
    for task, (_, _, summary) in APPLICATIONS.items():
        if tokens[:2] == ["train", task]:
            from .train import command

            train.command(command(task, tokens), name=task, help=summary)
        else:
            train.command(App(name=task, help=summary))
    app.command(train)
    for verb, (place, words) in VERBS.items():
        if verb in ("eval", "run") and tokens[:1] == [verb]:
            from . import use

            app.command(use.command(verb, tokens[1:]), name=verb, help=words)
        else:
            app.command(f"{__package__}.{place}", name=verb, help=words)
    return app


def split_config(tokens: list[str]) -> tuple[list[str], Path | None]:
    """Take `--config FILE` out of the words: it is the layer below the flags."""
    for n, token in enumerate(tokens):
        if token == "--config" and n + 1 < len(tokens):
            return tokens[:n] + tokens[n + 2 :], Path(tokens[n + 1])
        if token.startswith("--config="):
            return tokens[:n] + tokens[n + 1 :], Path(token.removeprefix("--config="))
    return tokens, None


def check_words(tokens: Sequence[str]) -> None:
    """Raise SettingError for an unknown verb or task, with the nearest known one."""
    from ...parts.errors import did_you_mean

    known = ["train", *VERBS]
    if tokens and not tokens[0].startswith("-") and tokens[0] not in known:
        raise SettingError(f"{tokens[0]!r} is not a verb{did_you_mean(tokens[0], known)}")
    if tokens[:1] == ["train"] and len(tokens) > 1 and not tokens[1].startswith("-") and tokens[1] not in APPLICATIONS:
        raise SettingError(f"{tokens[1]!r} is not a task{did_you_mean(tokens[1], APPLICATIONS)}")


def run(words: Sequence[str]) -> int:
    """Carry out a command line; gives the exit code."""
    words = [STREAM if word == "-" else word for word in words]  # a lone hyphen reads like half a flag to the parser
    debug = "--debug" in words
    tokens, config = split_config([word for word in words if word != "--debug"])
    try:
        check_words(tokens)
        code = build(tokens, config)(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return code if isinstance(code, int) else 0
    except (HoldfastError, CycloptsError, FileNotFoundError) as error:
        if debug:
            traceback.print_exc()
        say(str(error).strip())
        return error.exit_code if isinstance(error, HoldfastError) else 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our pipe has gone: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        say(f"{error.filename or 'a file'}: {error.strerror}")
        return 6
    except Exception as error:
        if debug:
            traceback.print_exc()
        say(
            f"a bug in Holdfast: {type(error).__name__}: {error}\n  please report it with --debug and `holdfast doctor`"
        )
        return 1


def say(message: str) -> None:
    """One message on stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"holdfast: {message}")


def main() -> None:
    """The entry point."""
    # Read by torch at its first tensor: large ones in huge pages, where the system gives them to those who ask. Fresh
    # pages of 4 KiB for a large vocabulary's gradients take a tenth of a training step.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
