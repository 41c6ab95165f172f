"""The applications' tables."""

from typing import Any

from chat_tables import chat_lines
from table_parts import RESULTS, markdown, result
from translate_tables import translate_lines


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
    rows += recommend_lines()
    rows += language_lines()
    rows += translate_lines()
    rows += chat_lines()
    note = "One seed each. Training times are wall times on cores shared with other jobs."
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


def recommend_lines() -> list[list[str]]:
    found = result("apps_recommend")["beauty"]
    lines: list[list[str]] = []
    for measure in ("HR@10", "NDCG@10"):
        ours = found["test"]["scores"]["holdfast"][measure]
        others = {
            who: row for who, row in found["test"]["scores"].items() if "holdfast" not in who and "its" not in who
        }
        beside = ", ".join(f"{who} {row[measure]:.4f}" for who, row in others.items())
        published = ", ".join(f"{who} {row[measure]:.4f}" for who, row in found["published"].items())
        seconds = f"{found['test']['train_seconds']:.0f} s"
        lines.append(["recommend, Amazon Beauty", measure, f"**{ours:.4f}**", beside, published, seconds])
    return lines


def language_lines() -> list[list[str]]:
    """One line per task that was judged, and one with the cache."""
    found = result("apps_language")
    tasks = {
        "shakespeare": ("language, tiny-shakespeare, characters", "nats per character", "nats_per_token", "nats", 3),
        "wikitext2": ("language, WikiText-2, words", "perplexity", "perplexity", "perplexity", 1),
    }
    lines: list[list[str]] = []
    for task, (name, words, measure, theirs, digits) in tasks.items():
        if task not in found:
            continue
        scores, seconds = found[task]["scores"], f"{found[task]['train_seconds']:.0f} s"
        beside = ", ".join(f"{who} {row[measure]:.{digits}f}" for who, row in scores.items() if "holdfast" not in who)
        published = ", ".join(f"{who} {row[theirs]}" for who, row in found[task]["published"].items())
        lines.append([name, words, f"**{scores['holdfast'][measure]:.{digits}f}**", beside, published, seconds])
        if "holdfast with a cache" in scores:
            cached = scores["holdfast with a cache"][measure]
            published = ", ".join(f"{who} {row['with cache']}" for who, row in found[task]["published"].items())
            lines.append(["the same with a cache", words, f"**{cached:.{digits}f}**", "", published, ""])
    return lines


def recommend_table() -> str:
    """Amazon Beauty, MovieLens, and a million made-up items."""
    titles = {
        "beauty": "Amazon Beauty, each user's last item",
        "movielens": "MovieLens latest-small, the last tenth of time",
    }
    parts = [recommend_scores(title, result("apps_recommend")[task]) for task, title in titles.items()]
    return "\n\n".join([*parts, million()])


def recommend_scores(title: str, found: dict[str, Any]) -> str:
    test, published = found["test"], found.get("published", {})
    rows = [["", "HR@10", "NDCG@10", "MRR"]]
    for who, row in [*test["scores"].items(), *((f"{who}, published", row) for who, row in published.items())]:
        cells = [f"{row[measure]:.4f}" if measure in row else "" for measure in ("HR@10", "NDCG@10", "MRR")]
        rows.append([f"**{who}**" if who == "holdfast" else who, *cells])
    size = f"{test['weights']:,} weights, {test['model_bytes'] / 1e6:.1f} MB"
    cost = f"Trained in {test['train_seconds']:.0f} s, {size}; the rules' weight in the answer {test['weight']:g}."
    return f"**{title}**\n\n{markdown(rows)}\n\n{cost}"


def million() -> str:
    """What a question costs where items are many; nothing where it was not measured."""
    if not (RESULTS / "recommend_million.json").is_file():
        return ""
    found = result("recommend_million")
    training, asked = found["training"], found["retrieval"]
    rows = [["", "ms per question, median", "90 %", "HR@10 of what was held out"]]
    hits = {"exact": f"{found['scores']['holdfast']['HR@10']:.3f}", "approximate": ""}
    for way in ("exact", "approximate"):
        rows.append([way, f"{asked[way]['ms']:.2f}", f"{asked[way]['p90_ms']:.2f}", hits[way]])
    beside = ", ".join(f"{who} {row['HR@10']:.3f}" for who, row in found["scores"].items() if who != "holdfast")
    cost = (
        f"{found['events']:,} events; {training['train_seconds'] / 60:.1f} minutes of one core to train, "
        f"{asked['index_seconds'] / 60:.1f} to build the index; at most {asked['index_peak_gb']} GB. The approximate "
        f"ten hold {asked['recall']:.1%} of the exact ones. HR@10 beside: {beside}."
    )
    return f"**{training['items']:,} made-up items, one thread**\n\n{markdown(rows)}\n\n{cost}"


def language_tables() -> str:
    """Every task that was judged."""
    titles = {
        "shakespeare": "tiny-shakespeare, characters, the last 10 %",
        "wikitext2": "WikiText-2, words, the official test part",
    }
    parts: list[str] = []
    for task, title in titles.items():
        found = result("apps_language").get(task)
        if found is None:
            continue
        rows = [["", "nats per token", "perplexity", "bits per character"]]
        for who, row in found["scores"].items():
            cells = [
                f"{row[name]:.{digits}f}"
                for name, digits in (("nats_per_token", 4), ("perplexity", 2), ("bits_per_character", 4))
            ]
            rows.append([f"**{who}**" if who.startswith("holdfast") else who, *cells])
        for who, row in found["published"].items():
            with_cache = f" ({row['with cache']} with a cache)" if "with cache" in row else ""
            rows.append([f"{who}, published", str(row.get("nats", "")), f"{row.get('perplexity', '')}{with_cache}", ""])
        cost = f"{found['weights']:,} weights, {found['steps']:,} steps in {found['train_seconds']:.0f} s"
        threads = found.get("threads", f"on {found['machine']['threads']} threads")
        parts.append(f"**{title}**\n\n{markdown(rows)}\n\n{cost}, {threads}.")
    return "\n\n".join([*parts, samples()])


def samples() -> str:
    """Whether written sentences are like real ones; nothing where that was not measured."""
    if not (RESULTS / "apps_language_samples.json").is_file():
        return ""
    found = result("apps_language_samples")
    columns = {
        "new": "new sentences",
        "trigrams": "trigrams attested",
        "whole": "sentences of attested trigrams alone",
        "distinct_2": "distinct pairs",
    }
    cost = f"{found['weights']:,} weights, {found['recipe']['steps']:,} steps in {found['train_seconds']:.0f} s"
    title = "Written sentences, judged by text that was not learned from"
    return f"**{title}**\n\n{scored({**found, 'published': {}}, columns)}\n\n{cost}."


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
