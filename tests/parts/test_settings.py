"""Settings: checked wherever they come from, and through JSON without loss."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from holdfast.parts import settings
from holdfast.parts.errors import SettingError
from holdfast.parts.settings import from_json, setting, to_json


@dataclass(frozen=True)
class Inner:
    words: tuple[str, ...]
    scale: float
    table: np.ndarray


@dataclass(frozen=True)
class Outer:
    count: int = setting(3, "how many", low=1, high=9)
    rate: float = setting(0.5, "how fast", low=0.0)
    kind: Literal["a", "b"] = setting("a", "which")
    name: str | None = setting(None, "what it is called")
    pair: tuple[int, float] = setting((1, 2.0), "two numbers")
    flag: bool = setting(False, "yes or no")

    def __post_init__(self) -> None:
        settings.check(self)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"count": 0}, "between 1 and 9"),
        ({"count": 10}, "between 1 and 9"),
        ({"count": 2.5}, "a whole number"),
        ({"count": True}, "a whole number"),
        ({"rate": math.nan}, "at least 0"),
        ({"rate": "fast"}, "a number"),
        ({"kind": "c"}, "one of 'a', 'b'"),
        ({"name": 3}, "a text or nothing"),
        ({"pair": (1,)}, "a list of"),
        ({"flag": 1}, "true or false"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_do(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words) as error:
        Outer(**wrong)
    assert next(iter(wrong)) in str(error.value)


def test_ints_pass_for_floats() -> None:
    assert Outer(rate=2, pair=(3, 4)).rate == 2


def test_through_json_and_back() -> None:
    inner = Inner(("x", "yé"), math.inf, np.arange(6, dtype=np.float32).reshape(2, 3))
    arrays: dict[str, np.ndarray] = {}
    said = to_json(inner, arrays)
    back = from_json(Inner, said, arrays)
    assert (back.words, back.scale) == (inner.words, inner.scale)
    np.testing.assert_array_equal(back.table, inner.table)
    assert from_json(Outer, to_json(Outer(name="n"), {}), {}) == Outer(name="n")


def test_json_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingError, match="did you mean 'count'"):
        from_json(Outer, {"cuont": 3}, {})
    with pytest.raises(SettingError, match="expected"):
        from_json(Outer, {"name": 3}, {})
    with pytest.raises(TypeError, match="cannot hold"):
        to_json(Inner(("a",), 1.0, object()), {})  # type: ignore[arg-type]
