"""Settings as flags: the fields of a dataclass become the keyword parameters of a command."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from ...parts.errors import SettingError

MODEL_FLAGS = Group("Model settings", sort_key=2)
RECIPE_FLAGS = Group("Training recipe", sort_key=3)
USE_FLAGS = Group("Settings of this model's application", sort_key=2)

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(_: type, tokens: typing.Sequence[Token]) -> float:
    """A duration: 90, 90s, 5m, 1.5h."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([smh]?)", tokens[0].value)
    if match is None:
        raise SettingError(f"--time {tokens[0].value!r} is not a duration", hint="write 90s, 5m or 1.5h")
    return float(match[1]) * UNITS[match[2]]


def parameters(
    kind: type, group: Group, defaults: Any = None, only: Callable[[Any], bool] = bool
) -> list[inspect.Parameter]:
    """The fields of a settings dataclass as keyword parameters; ``defaults`` is an instance that overrides theirs."""
    hints = typing.get_type_hints(kind)
    found: list[inspect.Parameter] = []
    for field in dataclasses.fields(kind):
        if not only(field):
            continue
        off = f"--no-{field.name.replace('_', '-')}" if field.default is True else ()
        said = Parameter(help=field.metadata.get("help", ""), group=group, negative=off)
        if field.name == "seconds":
            said = Parameter(name="--time", help="time budget, such as 90s, 5m or 1.5h", group=group, converter=seconds)
        default = field.default if defaults is None else getattr(defaults, field.name)
        hint = Annotated[hints[field.name], said]
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return found


def with_flags(function: Callable[..., Any], extra: Iterable[inspect.Parameter]) -> Callable[..., Any]:
    """A command that takes ``function``'s own parameters and the extra flags, handed on as ``flags``."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "flags"]
    defaults = {p.name: p.default for p in extra}

    def command(*args: Any, **given: Any) -> Any:
        flags = {name: given.pop(name, default) for name, default in defaults.items()}
        return function(*args, flags=flags, **given)

    command.__signature__ = inspect.Signature([*own, *extra])  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *extra]}
    command.__doc__ = function.__doc__
    return command
