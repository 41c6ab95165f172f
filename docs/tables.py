"""Write the measured tables of README and guide from benchmarks/results: `make docs`. With --check, only compare.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is there is replaced.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softmax_tables import losses_note, losses_rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def result(name: str) -> dict[str, Any]:
    """A recorded run."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table, the first one as its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def ratios(found: dict[str, Any], threads: int) -> dict[str, float]:
    return {row["case"]: row["ratio"] for row in found["rows"] if row["threads"] == threads}


def ratio_cell(found: list[float]) -> str:
    """The geometric mean, and the range where there is one."""
    mean = math.exp(sum(math.log(ratio) for ratio in found) / len(found))
    return f"**{mean:.2f}x**" + (f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else "")


def engine_summary() -> str:
    """One line per kind of work: the geometric mean, the worst case, the rival."""
    rows = [["float32 on a CPU, against `torch.nn.LSTM`", "1 thread", "2 threads"]]
    kinds = [
        ("engine_training", "B", "training, six shapes"),
        ("engine_ragged", "packed, 10-100 steps, training", "training, ragged: `PackedSequence` in and out"),
        ("engine_ragged", "packing too, 10-100 steps, training", "the same, packing and unpacking included"),
        ("engine_inference", "B", "inference, batches, long sequences and single steps"),
    ]
    for name, begins, words in kinds:
        cells = [
            ratio_cell([r for case, r in ratios(result(name), n).items() if case.startswith(begins)]) for n in (1, 2)
        ]
        rows.append([words, *cells])
    machine = result("engine_training")["machine"]
    note = (
        f"Ratio of median times, geometric mean (range over shapes), interleaved runs, torch {machine['torch']}, "
        f"{machine['cpu']} (family/model {machine['family_model']}), {machine['instruction_set']}, "
        f"{machine['date'][:10]}. torch's ragged times scatter widely from run to run, and the ratio with them: the "
        "guide has the interquartile ranges."
    )
    return f"{markdown(rows)}\n\n{note}"


def engine_table(name: str) -> str:
    """Every shape of one benchmark, and the roof."""
    found = result(name)
    rows = [["case", "threads", "holdfast ms (iqr)", "torch ms (iqr)", "ratio", "GFLOP/s"]]
    for row in found["rows"]:
        ours, theirs = (f"{row[who]['median_ms']:.2f} ({row[who]['iqr_ms']:.2f})" for who in ("ours", "rival"))
        rows.append([row["case"], str(row["threads"]), ours, theirs, f"{row['ratio']:.2f}", f"{row['gflops']:.0f}"])
    roofs = "; ".join(
        f"{roof['threads']} thread(s): {roof['multiply_adds_in_registers']:.0f} GFLOP/s by multiply-adds in registers, "
        f"{roof['torch_mm_1024']:.0f} by `torch.mm`"
        for roof in found["roof_gflops"]
    )
    measured = found["machine"]["commit"]
    return f"{markdown(rows)}\n\nThe roof, measured in the same run: {roofs}. Measured at commit {measured}."


def losses_table() -> str:
    """Softmax losses and recomputed sequences: times and peak memory."""
    found = result("engine_softmax")
    return f"{markdown(losses_rows(found))}\n\n{losses_note(found)}"


def apps_summary() -> str:
    """One line per application and data set: ours, the strongest trivial baseline, the published figures."""
    rows = [["application, data (official test part)", "measure", "holdfast", "baselines", "published", "trained in"]]
    measures = {
        "m4-hourly": ("M4 Hourly, 414 series", "OWA", 3),
        "m4-weekly": ("M4 Weekly, 359 series", "OWA", 3),
        "m3-monthly": ("M3 Monthly, 1,428 series", "sMAPE", 2),
        "etth1-96": ("ETTh1, 96 steps", "MSE", 3),
    }
    tests = result("apps_forecast")["test"]
    for name, (words, measure, digits) in measures.items():
        if name in tests:
            rows.append(forecast_line(words, measure, digits, tests[name]))
    activity = result("apps_activity")
    for classes in ("6 classes", "12 classes"):
        if classes in activity:
            rows.append(activity_line(classes, activity))
    note = "One seed each. The activity rows' times are wall times on a core shared with other jobs."
    return f"{markdown(rows)}\n\n{note}"


def forecast_line(words: str, measure: str, digits: int, found: dict[str, Any]) -> list[str]:
    ours, *others = found["scores"].items()
    beside = ", ".join(f"{who} {row[measure]:.{digits}f}" for who, row in others if measure in row)
    published = ", ".join(f"{who} {row[measure]}" for who, row in found["published"].items() if measure in row)
    return [
        f"forecast, {words}",
        measure,
        f"**{ours[1][measure]:.{digits}f}**",
        beside,
        published,
        f"{found['train_seconds']:.0f} s",
    ]


def activity_line(classes: str, found: dict[str, Any]) -> list[str]:
    measure, name = ("accuracy", "accuracy, %") if classes == "6 classes" else ("macro_f1", "macro-F1, %")
    ours, *others = found[classes]["scores"].items()
    beside = ", ".join(f"{who} {100 * row[measure]:.1f}" for who, row in others)
    published = (
        ", ".join(f"{who} {100 * value:.1f}" for who, value in found["published"].items())
        if measure == "accuracy"
        else ""
    )
    seconds = f"{found[classes]['train_seconds']:.0f} s"
    return [
        f"activity, HAPT, {classes}, unseen people",
        name,
        f"**{100 * ours[1][measure]:.1f}**",
        beside,
        published,
        seconds,
    ]


def scored(found: dict[str, Any], columns: dict[str, str]) -> str:
    """Everybody's scores on one data set: ours, the baselines', the published ones. ``columns``: measure -> heading."""
    rows = [["", *columns.values()]]
    for who, row in found["scores"].items():
        cells = [f"{row[measure]:.3f}" if measure in row else "" for measure in columns]
        rows.append([f"**{who}**" if who == "holdfast" else who, *cells])
    for who, row in found["published"].items():
        rows.append([f"{who}, published", *(f"{row[measure]:.3f}" if measure in row else "" for measure in columns)])
    return markdown(rows)


def forecast_tables() -> str:
    """Each data set of the forecaster's benchmark."""
    coverage = {"coverage 80": "coverage of 80 %", "coverage 95": "of 95 %"}
    competition = {"sMAPE": "sMAPE", "MASE": "MASE", "OWA": "OWA", "pinball": "pinball", **coverage}
    names = {
        "m4-hourly": ("M4 Hourly, 414 series, 48 ahead", competition),
        "m4-weekly": ("M4 Weekly, 359 series, 13 ahead", competition),
        "m3-monthly": ("M3 Monthly, 1,428 series, 18 ahead", competition),
        "etth1-96": ("ETTh1, 96 hours ahead, 7 channels, z-scores", {"MSE": "MSE", "MAE": "MAE", **coverage}),
    }
    parts: list[str] = []
    for name, found in result("apps_forecast")["test"].items():
        title, columns = names[name]
        cost = f"{found['train_seconds']:.0f} s on {found['machine']['threads']} thread(s)"
        size = f"{found['weights']:,} weights, {found['model_bytes'] / 1e6:.1f} MB"
        share = found.get("network's share")
        blend = "" if share is None else f"; network's share in the blend {share:.0%}"
        parts.append(f"**{title}**\n\n{scored(found, columns)}\n\nTrained in {cost}, {size}{blend}.")
    return "\n\n".join(parts)


def activity_tables() -> str:
    """HAPT with 6 and with 12 classes."""
    recorded = result("apps_activity")
    parts: list[str] = []
    for classes in ("6 classes", "12 classes"):
        found = dict(recorded[classes])
        published = recorded["published"] if classes == "6 classes" else {}
        found["published"] = {who: {"accuracy": value} for who, value in published.items()}
        columns = {"accuracy": "accuracy", "macro_f1": "macro-F1", "calibration_error": "calibration error"}
        parts.append(f"**{classes}, {found['windows']:,} windows of unseen people**\n\n{scored(found, columns)}")
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[], str]] = {
    "engine": engine_summary,
    "apps": apps_summary,
    "forecast": forecast_tables,
    "activity": activity_tables,
    "engine training": lambda: engine_table("engine_training"),
    "engine inference": lambda: engine_table("engine_inference"),
    "losses": losses_table,
    "engine ragged": lambda: engine_table("engine_ragged"),
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
