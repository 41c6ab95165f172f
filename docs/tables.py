"""Write the measured tables of README and guide from benchmarks/results: `make docs`. With --check, only compare.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is there is replaced.
"""

import argparse
import re
import sys
from collections.abc import Callable

from app_tables import activity_tables, apps_summary, forecast_tables, language_tables, recommend_table
from chat_tables import chat_tables
from engine_tables import (
    amx_table,
    engine_summary,
    engine_table,
    instructions_table,
    medium_errors,
    medium_table,
    others_table,
    recompute_table,
    stream_accuracy,
    stream_others_table,
    stream_table,
    stream_variants_table,
    variants_table,
)
from memory_tables import long_memory_table
from softmax_tables import losses_table
from table_parts import ROOT
from translate_tables import translate_tables

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]

TABLES: dict[str, Callable[[], str]] = {
    "engine": engine_summary,
    "apps": apps_summary,
    "forecast": forecast_tables,
    "activity": activity_tables,
    "language": language_tables,
    "recommend": recommend_table,
    "translate": translate_tables,
    "chat": chat_tables,
    "long memory": long_memory_table,
    "engine training": lambda: engine_table("engine_training"),
    "engine inference": lambda: engine_table("engine_inference"),
    "engine ragged": lambda: engine_table("engine_ragged"),
    "engine variants": variants_table,
    "engine medium": medium_table,
    "engine medium errors": medium_errors,
    "engine amx": amx_table,
    "sampled softmax": lambda: engine_table("engine_sampled_softmax"),
    "engine recompute": recompute_table,
    "engine others": others_table,
    "engine instructions": instructions_table,
    "losses": losses_table,
    "stream one": stream_table,
    "stream others": stream_others_table,
    "stream variants": stream_variants_table,
    "engine decoder": lambda: engine_table("engine_decoder"),
    "stream accuracy": stream_accuracy,
}


def renewed(page: str) -> str:
    """A page with its tables as the results have them."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w ]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a page is not what the results say")
    given = parser.parse_args()
    stale = [path for path in PAGES if renewed(path.read_text()) != path.read_text()]
    for path in stale:
        if given.check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: make docs\n")
        else:
            path.write_text(renewed(path.read_text()))
    sys.exit(1 if given.check and stale else 0)


if __name__ == "__main__":
    main()
