"""Settings: the fields of a frozen dataclass, as Python arguments, as flags and as JSON.

A setting is declared once, with its help text and its range:

    hidden: int = setting(128, "memory cells per layer", low=1)

and is checked wherever it comes from. There is no ``**kwargs``: a wrong name is an error with a suggestion.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np

from .errors import SettingError, did_you_mean

T = TypeVar("T")


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None, use: bool = False) -> Any:
    """A dataclass field with its help text and range.

    ``use=True`` marks a setting that may differ each time a trained model is used (a confidence level, a number of
    backtest windows); all others are fixed when the model is trained.
    """
    metadata = {"help": help, "low": low, "high": high, "use": use}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any) -> None:
    """Raise SettingError for the first field whose value has the wrong type or lies outside its range."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        where = f"{type(settings).__name__}.{field.name}"
        if not fits(value, hints[field.name]):
            raise SettingError(f"{where} is {value!r}", hint=f"it takes {spell(hints[field.name])}")
        low, high = field.metadata.get("low"), field.metadata.get("high")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, (int, float)) and not (
                (low is None or number >= low) and (high is None or number <= high) and not math.isnan(number)
            ):
                raise SettingError(f"{where} is {value!r}", hint=f"it is {bounds(low, high)}")


def bounds(low: float | None, high: float | None) -> str:
    """A range in words."""
    if low is not None and high is not None:
        return f"between {low} and {high}"
    if low is None and high is None:
        return "a number"
    return f"at least {low}" if high is None else f"at most {high}"


def check_names(cls: type, given: Mapping[str, Any]) -> None:
    """Raise SettingError for the first name that is not a field of the dataclass ``cls``."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in known:
            raise SettingError(f"{cls.__name__} has no setting {name!r}{did_you_mean(name, known)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; an int passes for a float, a bool does not pass for an int."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in args
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(fits(item, arg) for item, arg in zip(value, args, strict=True))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, int]):
        return isinstance(value, Mapping) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint or type(None))


def spell(hint: Any) -> str:
    """An annotated type in words a user knows."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(spell(arg) for arg in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of " + " and ".join(spell(arg) for arg in get_args(hint) if arg is not Ellipsis)
    return names.get(hint, str(hint))


def to_json(value: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """A dataclass as JSON values. numpy arrays go to ``arrays`` under their path, and are named in the JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_json(getattr(value, f.name), arrays, f"{path}{f.name}.") for f in fields}
    if isinstance(value, np.ndarray):
        arrays[path.removesuffix(".")] = value
        return {"array": path.removesuffix(".")}
    if isinstance(value, (list, tuple)):
        return [to_json(item, arrays, f"{path}{n}.") for n, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: to_json(item, arrays, f"{path}{key}.") for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}  # JSON has no inf and nan
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} holds a {type(value).__name__}, which a model file cannot hold")


def from_json(hint: Any, value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of to_json for an annotated type. Raises SettingError where the JSON does not fit it."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise SettingError(f"{hint.__name__} was expected, not {value!r:.80}")
        check_names(hint, value)
        hints = typing.get_type_hints(hint)
        return hint(**{name: from_json(hints[name], item, arrays) for name, item in value.items()})
    if hint is np.ndarray:
        return arrays[value["array"]]
    if isinstance(value, dict) and set(value) == {"float"}:
        return float(value["float"])
    if origin is tuple and isinstance(value, list):
        variadic = len(args) == 2 and args[1] is Ellipsis
        kinds = [args[0]] * len(value) if variadic else args
        return tuple(from_json(kind, item, arrays) for kind, item in zip(kinds, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else from_json(next(a for a in args if a is not type(None)), value, arrays)
    if isinstance(value, dict) and args:
        return {key: from_json(args[1], item, arrays) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits(value, hint):
        raise SettingError(f"{value!r:.80} was found where {spell(hint)} was expected")
    return value
