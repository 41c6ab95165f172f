"""The hot loops take no more instructions than the record says: a regression check that no busy machine disturbs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def instructions() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))  # for its `measure`
    try:
        spec = importlib.util.spec_from_file_location("engine_instructions", BENCHMARKS / "engine_instructions.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_no_count_has_grown(instructions: ModuleType) -> None:
    if why_not := instructions.why_not():
        pytest.skip(why_not)
    record = json.loads(instructions.RECORD.read_text())
    if record["compiler"] != instructions.compiler():
        pytest.skip(f"counts depend on the compiler; the record is of {record['compiler']}")
    assert instructions.grown(record["instructions"], dict(instructions.counts(isas=("avx2",)))) == {}


def test_growth_is_noticed(instructions: ModuleType) -> None:
    record = {"avx2 forward": 1000, "avx2 stream": 1000, "avx2 backward": 1000}
    found = {"avx2 forward": 1021, "avx2 stream": 1019, "avx2 backward": 500}
    assert instructions.grown(record, found) == pytest.approx({"avx2 forward": 0.021})
