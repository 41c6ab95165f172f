"""Links lead somewhere, generated tables are fresh, and the commands that the pages name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "kernels").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_generated_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_flags_that_pages_name_exist(page: Path) -> None:
    from holdfast.apps import APPLICATIONS
    from holdfast.interfaces.cli.main import VERBS

    for line in re.findall(r"^(?:\$ )?holdfast (.+)$", page.read_text(), flags=re.MULTILINE):
        words = line.split()
        assert words[0] in ["train", *VERBS], f"{page.name}: holdfast {words[0]}"
        if words[0] == "train" and words[1] != "TASK":
            assert words[1] in APPLICATIONS, f"{page.name}: holdfast train {words[1]}"
