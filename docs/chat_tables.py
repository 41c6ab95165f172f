"""The bot's tables."""

from typing import Any

from table_parts import RESULTS, markdown, result

INTENTS = {
    "banking77": "BANKING77, 77 intents, test",
    "clinc150": "CLINC150, 150 intents, test; out of scope beside them",
}
SHARES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "kept": "in scope, accepted",
    "accepted_accuracy": "in scope, accepted and right",
    "rejected": "out of scope, rejected",
    "calibration_error": "calibration error",
}
WRITING = {
    "BLEU": ("BLEU", "{:.1f}"),
    "slot_error": ("slot error", "{:.3f}"),
    "perplexity": ("perplexity per subword", "{:.2f}"),
    "distinct_1": ("distinct-1", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
}
CONDITIONS = {
    "scores": "acts given",
    "services of train only": "acts given, services of train only",
    "greedy": "acts given, greedy, the first 300 conversations",
    "without acts": "acts not given",
}


def chat_tables() -> str:
    """Every task that was judged; a sentence where none was."""
    tests = result("apps_chat").get("test", {}) if (RESULTS / "apps_chat.json").is_file() else {}
    parts = [intent_table(title, tests[name]) for name, title in INTENTS.items() if name in tests]
    parts += [reply_table(tests["sgd"])] if "sgd" in tests else []
    return "\n\n".join(parts) or "Not measured yet."


def chat_lines() -> list[list[str]]:
    """For the table of all applications: a line per task that was judged."""
    tests = result("apps_chat").get("test", {}) if (RESULTS / "apps_chat.json").is_file() else {}
    wanted = {
        "banking77": ("chat, BANKING77, intents", "accuracy", "accuracy, %", 100, 2),
        "clinc150": ("chat, CLINC150, intents in scope", "accuracy", "accuracy, %", 100, 2),
        "sgd": ("chat, SGD (a part), replies, acts given", "BLEU", "BLEU", 1, 1),
    }
    lines: list[list[str]] = []
    for name, (title, measure, said, factor, digits) in wanted.items():
        if name in tests:
            ours, *others = ((who, row) for who, row in tests[name]["scores"].items() if measure in row)
            beside = ", ".join(f"{who} {factor * row[measure]:.{digits}f}" for who, row in others)
            known = tests[name]["published"].items()
            published = ", ".join(f"{who} {factor * row[measure]:.{digits}f}" for who, row in known if measure in row)
            seconds = f"{tests[name]['train_seconds']:.0f} s"
            lines.append([title, said, f"**{factor * ours[1][measure]:.{digits}f}**", beside, published, seconds])
    return lines


def intent_table(title: str, found: dict[str, Any]) -> str:
    names = {name: said for name, said in SHARES.items() if name in found["scores"]["holdfast"]}
    rows = [["", *names.values()]]
    for who, row in found["scores"].items():
        cells = [f"{100 * row[name]:.2f}" if name in row else "" for name in names]
        rows.append([f"**{who}**" if who == "holdfast" else who, *cells])
    for who, row in found["published"].items():
        rows.append([f"{who}, published", *(f"{100 * row[name]:.2f}" if name in row else "" for name in names)])
    return f"**{title}**, in percent\n\n{markdown(rows)}\n\n{cost(found)}"


def reply_table(found: dict[str, Any]) -> str:
    rows = [["", *(said for said, _ in WRITING.values())]]
    for condition, said in CONDITIONS.items():
        for who, row in found.get(condition, {}).items():
            if "BLEU" in row:
                cells = [shape.format(row[name]) if name in row else "" for name, (_, shape) in WRITING.items()]
                rows.append([f"**{who}**, {said}" if who == "holdfast" else f"{who}, {said}", *cells])
    ours, known = (found[part]["holdfast"] for part in ("scores", "services of train only"))
    understood = (
        f"Intents {100 * ours['accuracy']:.2f} % right, slots F1 {100 * ours['slot_f1']:.2f} %; "
        f"on services of train only {100 * known['accuracy']:.2f} and {100 * known['slot_f1']:.2f} %"
    )
    bayes = 100 * found["scores"]["naive Bayes"]["accuracy"]
    return (
        f"**SGD, {found['replies']:,} replies of conversations not trained on**\n\n{markdown(rows)}\n\n"
        f"{understood}; naive Bayes' intents {bayes:.2f} %. {cost(found)}"
    )


def cost(found: dict[str, Any]) -> str:
    """What it took and what it takes."""
    minutes, threads = found["train_seconds"] / 60, found["machine"]["threads"]
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in found["milliseconds"].items())
    size = f"{found['weights']:,} weights, {found['model_bytes'] / 1e6:.1f} MB"
    return f"{size}; {found['steps']:,} steps in {minutes:.0f} minutes on {threads} thread(s). One thread: {times}."
