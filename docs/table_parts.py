"""What the generated tables are made of: recorded runs and Markdown."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    """A recorded run."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table, the first one as its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])
