"""Imports point down, files stay small, and nothing unsafe or machine-bound has slipped in."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "holdfast"
FLOORS = ["engine", "parts", "training", "apps", "interfaces"]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE)
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "joblib"}


def imported(path: Path) -> list[str]:
    """Dotted names of what a file imports at any depth, relative imports resolved, without TYPE_CHECKING blocks."""
    package = ["holdfast", *path.relative_to(SOURCE).parts[:-1]]
    tree = ast.parse(path.read_text())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{start}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.tiny
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    floor = FLOORS.index(path.relative_to(SOURCE).parts[0])
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in FORBIDDEN, f"{path.name} imports {name}"
        if parts[0] == "holdfast" and len(parts) > 1 and parts[1] in FLOORS:
            assert FLOORS.index(parts[1]) <= floor, f"{path.name} imports {name}, a floor above its own"
            if FLOORS[floor] == "apps" and parts[1] == "apps" and path.name != "__init__.py":
                raise AssertionError(f"{path.name} imports {name}: applications never import applications")
            if FLOORS[floor] == "interfaces" and parts[1] == "apps":
                assert parts[2] in ("APPLICATIONS", "application", "load"), f"{path.name} knows one application: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path.name} has {text.count(chr(10))} lines: find its second idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            has_doc = ast.get_docstring(node) is not None
            first = node.body[1 if has_doc and len(node.body) > 1 else 0]
            length = (node.end_lineno or first.lineno) - first.lineno + 1
            assert length <= 40, f"{path.name}: {node.name} has {length} lines of code"


def test_no_file_names_a_path_of_a_machine() -> None:
    root = SOURCE.parents[1]
    places = [root / "README.md", root / "Makefile", root / "pyproject.toml", *FILES]
    for path in places:
        if path.exists():
            assert not re.search(r"/(work|tmp|home|root)/\w", path.read_text()), f"{path} names a path of a machine"
