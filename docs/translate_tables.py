"""The translator's table."""

from typing import Any

from table_parts import RESULTS, markdown, result

TITLES = {
    "multi30k-de": "Multi30k en-de, test 2016, lower-cased tokens",
    "multi30k-de, 2 members": "Multi30k en-de, the same, two members",
    "multi30k-fr": "Multi30k en-fr, test 2016, lower-cased tokens",
    "multi30k-fr, 2 members": "Multi30k en-fr, the same, two members",
    "tatoeba-de": "Tatoeba en-de, cased text, sacreBLEU with all references",
}


def translate_tables() -> str:
    """Every task that was judged; a sentence where none was."""
    tests = result("apps_translate").get("test", {}) if (RESULTS / "apps_translate.json").is_file() else {}
    parts = [task_table(title, tests[name]) for name, title in TITLES.items() if name in tests]
    return "\n\n".join(parts) or "Not measured yet."


def translate_lines() -> list[list[str]]:
    """For the table of all applications: a line per task that was judged."""
    tests = result("apps_translate").get("test", {}) if (RESULTS / "apps_translate.json").is_file() else {}
    lines: list[list[str]] = []
    for name, title in TITLES.items():
        if name in tests:
            (_, ours), *others = tests[name]["scores"].items()
            beside = ", ".join(f"{who} {row['BLEU']:.1f}" for who, row in others)
            published = ", ".join(f"{who} {row['BLEU']:.1f}" for who, row in tests[name]["published"].items())
            seconds = f"{tests[name]['train_seconds']:.0f} s"
            lines.append([f"translate, {title}", "BLEU", f"**{ours['BLEU']:.1f}**", beside, published, seconds])
    return lines


def task_table(title: str, found: dict[str, Any]) -> str:
    rows = [["", "BLEU", "chrF"]]
    for who, row in found["scores"].items():
        cells = [f"{row[measure]:.1f}" for measure in ("BLEU", "chrF")]
        rows.append([f"**{who}**" if who == "holdfast" else who, *cells])
    rows += [[f"{who}, published", f"{row['BLEU']:.1f}", ""] for who, row in found["published"].items()]
    minutes, threads = found["train_seconds"] / 60, found["machine"]["threads"]
    cost = f"{found['steps']:,} steps in {minutes:.0f} minutes on {threads} threads"
    size = f"{found['weights']:,} weights, {found['model_bytes'] / 1e6:.1f} MB"
    speeds = ", ".join(f"{rate:.0f} ({how})" for how, rate in found["sentences_per_second"].items())
    return f"**{title}**\n\n{markdown(rows)}\n\n{size}; {cost}. Sentences per second on one thread: {speeds}."
