"""The one file: the same bytes, the same answers, and a clear refusal of whatever is not one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from holdfast.parts.errors import ModelFileError, SettingError
from holdfast.training.model import Model, load

from .toys import Speller, Text

EXAMPLES = Speller().synthesize(5, np.random.default_rng(0))
GOLDEN = Path(__file__).parents[1] / "golden" / "speller-format-1.safetensors"


def resolve(task: str) -> type:
    return {"spell": Speller}[task]


@pytest.fixture(scope="module")
def model() -> Model[Any, Any, Any, Any, Any, Any]:
    return Speller().fit(EXAMPLES)


@pytest.fixture
def file(model: Model[Any, Any, Any, Any, Any, Any], tmp_path: Path) -> Path:
    model.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The file with its header and tensors altered."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["holdfast"])
    tensors = load_file(file)
    change(header, tensors)
    save_file(tensors, file, metadata={"holdfast": json.dumps(header)})
    return file


@pytest.mark.tiny
def test_the_file_keeps_the_answers_and_the_bytes(model: Model[Any, Any, Any, Any, Any, Any], file: Path) -> None:
    again = load(file, resolve)
    questions = [Text("abca"), Text("abcadab")]
    assert again.predict(questions) == model.predict(questions)
    assert again.application == model.application and again.card == model.card
    assert again.evaluate(EXAMPLES) == model.evaluate(EXAMPLES)
    first = file.read_bytes()
    again.save(file)
    assert file.read_bytes() == first


def test_the_golden_file_of_format_1_opens_for_ever() -> None:
    model = load(GOLDEN, resolve)
    assert model.predict([Text("abca"), Text("abcadabca")]) == ["dab", "dab"]
    assert model.application == Speller(hidden=5, count=3)
    np.testing.assert_array_equal(model.codec.counts, np.array([192.0, 96.0, 96.0, 96.0], dtype=np.float32))


def test_every_truncation_is_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for keep in [0, 1, 7, 8, 9, 100, 500, len(data) // 2, len(data) - 1]:
        short = tmp_path / "short.safetensors"
        short.write_bytes(data[:keep])
        with pytest.raises(ModelFileError, match=r"short\.safetensors"):
            load(short, resolve)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for data in (b"", b"PK\x03\x04" * 100, b"{}", b"\x80\x04" + bytes(100), (10**12).to_bytes(8, "little") + b"{}" * 9):
        path.write_bytes(data)
        with pytest.raises(ModelFileError):
            load(path, resolve)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ModelFileError, match="not one of Holdfast's"):
        load(path, resolve)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        load(tmp_path / "nothing", resolve)


def test_a_later_format_is_refused_with_a_remedy(file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"format 2.*\n.*newer"):
        load(rewritten(file, lambda header, _: header.update(format=2)), resolve)


def oversize(header: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
    header["settings"]["hidden"] = 10**7  # 1.6e15 bytes of weights, were anybody to ask for them


def lose(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["net.head.bias"]


def add(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["net.extra"] = torch.ones(1)


def reshape(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["net.head.bias"] = torch.ones(5)


def poison(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["net.head.bias"][0] = float("nan")


def mistype(header: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
    header["settings"]["hidden"] = "seven"


def rename(header: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
    header["settings"]["hiden"] = header["settings"].pop("hidden")


def name_code(header: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
    header["application"] = "os.system"


def lose_codec(header: dict[str, Any], _: dict[str, torch.Tensor]) -> None:
    header["codec"] = []


@pytest.mark.parametrize("change", [oversize, lose, add, reshape, poison, mistype, rename, name_code, lose_codec])
def test_a_file_that_does_not_fit_itself_is_refused(file: Path, change: Callable[..., None]) -> None:
    with pytest.raises(ModelFileError, match=r"m\.safetensors"):
        load(rewritten(file, change), resolve)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_no_altered_byte_gets_past_as_anything_but_a_clear_error(place: float, value: int) -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[int(place * len(data))] = value
    path = GOLDEN.with_name(".altered")
    path.write_bytes(data)
    try:
        load(path, resolve)
    except ModelFileError:
        return
    finally:
        path.unlink()


def test_settings_of_use_can_change_and_others_cannot(model: Model[Any, Any, Any, Any, Any, Any]) -> None:
    assert model.using(count=2).predict([Text("abca")]) == ["da"]
    with pytest.raises(SettingError, match="fixed when the model was trained"):
        model.using(hidden=3)
    with pytest.raises(SettingError, match="did you mean 'count'"):
        model.using(cuont=3)


def test_a_stream_goes_on_in_another_process(model: Model[Any, Any, Any, Any, Any, Any]) -> None:
    first, second = model.stream(), model.stream()
    first.push("abcadab")
    second.restore(first.state())
    assert second.flush() == first.flush() == model.predict([Text("abcadab")])
