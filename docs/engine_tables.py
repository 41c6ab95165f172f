"""The engine's tables: training, inference, ragged rows, variants, precisions, streams."""

import math
from typing import Any

from table_parts import markdown, result


def ratios(found: dict[str, Any], threads: int) -> dict[str, float]:
    return {row["case"]: row["ratio"] for row in found["rows"] if row["threads"] == threads}


def ratio_cell(found: list[float]) -> str:
    """The geometric mean, and the range where there is one."""
    mean = math.exp(sum(math.log(ratio) for ratio in found) / len(found))
    return f"**{mean:.2f}x**" + (f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else "")


def chosen(case: str, begins: str, ends: str) -> bool:
    """Whether a row counts for a line of the summary."""
    return case.startswith(begins) and case.endswith(ends)


def engine_summary() -> str:
    """One line per kind of work: the geometric mean, the worst case, the rival."""
    rows = [["float32 on a CPU, against `torch.nn.LSTM`", "1 thread", "2 threads"]]
    kinds = [
        ("engine_training", "B", "", "training, six shapes"),
        ("engine_ragged", "packed, 10-100 steps, training", "", "training, ragged: `PackedSequence` in and out"),
        ("engine_ragged", "packing too, 10-100 steps, training", "", "the same, packing and unpacking included"),
        ("engine_inference", "B", "", "inference, batches, long sequences and single steps"),
        ("engine_medium", "training", "torch float32", "training, `medium` precision (bf16 products)"),
        ("engine_medium", "training", "bfloat16 module", "training in bfloat16, both sides"),
        ("engine_variants", "", "", "training a variant, against the same cell as a PyTorch loop"),
        ("engine_others", "training", "JAX", "training, against JAX (`lax.scan`, compiled)"),
        ("engine_others", "inference", "JAX", "inference, against JAX"),
        ("engine_others", "inference", "onnxruntime", "inference, against onnxruntime"),
    ]
    for name, begins, ends, words in kinds:
        found = [ratios(result(name), n) for n in (1, 2)]
        each = [[r for case, r in one.items() if chosen(case, begins, ends)] for one in found]
        rows.append([words, *(ratio_cell(own) if own else "not measured" for own in each)])
    machine = result("engine_training")["machine"]
    dates = sorted({result(name)["machine"]["date"][:10] for name, *_ in kinds})
    note = (
        f"Ratio of median times, geometric mean (range over shapes), interleaved runs, torch {machine['torch']}, "
        f"{machine['cpu']} (family/model {machine['family_model']}), {machine['instruction_set']}, "
        f"{' and '.join(dates)}. torch's ragged times scatter widely from run to run, and the ratio with them: the "
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
    return f"{markdown(rows)}\n\nThe roof, measured in the same run: {roofs}. {measured_on(found)}"


def others_table() -> str:
    """Every shape against the other engines."""
    found = result("engine_others")
    rows = [["case, against", "threads", "holdfast ms (iqr)", "its ms (iqr)", "ratio"]]
    for row in found["rows"]:
        ours, theirs = (f"{row[who]['median_ms']:.2f} ({row[who]['iqr_ms']:.2f})" for who in ("ours", "rival"))
        rows.append([row["case"], str(row["threads"]), ours, theirs, f"{row['ratio']:.2f}"])
    return f"{markdown(rows)}\n\n{measured_on(found)}"


def instructions_table() -> str:
    """Instructions of one call, by callgrind."""
    found = result("engine_instructions")
    counts: dict[str, int] = found["instructions"]
    isas = list(dict.fromkeys(name.split(" ", 1)[0] for name in counts))
    rows = [["one call", *isas]]
    for case in dict.fromkeys(name.split(" ", 1)[1] for name in counts):
        rows.append([case, *(f"{counts[f'{isa} {case}']:,}" for isa in isas)])
    return f"{markdown(rows)}\n\nCompiled by {found['compiler']}, commit {found['commit']}."


def stream_table() -> str:
    """One stream on one thread: a step in microseconds, and how many times longer the others take."""
    found = result("engine_stream")
    roofs = found["read_gigabytes_per_second"]
    rivals = ("nn.LSTM", "nn.LSTMCell", "onnxruntime", "quantize_dynamic")
    rows = [
        [
            "",
            "precision",
            "us a step (iqr)",
            "input in place",
            *(f"{who}: us, ratio" for who in rivals),
            "weights",
            "read at",
        ]
    ]
    ours = [row for row in found["rows"] if row["case"].startswith("one stream") and row["threads"] == 1]
    for case in dict.fromkeys(row["case"] for row in ours if "in place" not in row["case"]):
        for precision in dict.fromkeys(row["precision"] for row in ours):
            named = {row["rival"]: row for row in ours if (row["case"], row["precision"]) == (case, precision)}
            in_place = next(r for r in ours if r["case"].startswith(f"{case}, ") and r["precision"] == precision)
            first = named["nn.LSTM"]
            others = [named.get(who) for who in rivals]
            speed, roof = first["gigabytes_per_second"], roofs[str(first["weight_bytes"])]
            rows.append(
                [
                    case.removeprefix("one stream, "),
                    precision,
                    f"{first['ours_us']:.2f} ({first['ours_iqr_us']:.2f})",
                    f"{in_place['ours_us']:.2f}",
                    *(
                        "" if other is None else f"{other['rival_us']:.0f}, **{other['ratio']:.1f}x**"
                        for other in others
                    ),
                    f"{first['weight_bytes'] / 1e6:.2f} MB",
                    f"{speed:.0f} of {roof:.0f} GB/s",
                ]
            )
    note = (
        "Each ratio is from runs interleaved with that rival; ours is the run beside `nn.LSTM`. The last column is the "
        "weights' bytes over the whole step, Python included, and how fast one thread reads as many bytes again and "
        f"again. {measured_on(found)}"
    )
    return f"{markdown(rows)}\n\n{note}"


def stream_others_table() -> str:
    """A thousand streams together; and one stream on two threads."""
    rows = [["", "precision", "threads", "us a step (iqr)", "rival", "its us (iqr)", "ratio"]]
    for row in result("engine_stream")["rows"]:
        if (row["threads"] > 1 and "in place" not in row["case"]) or "together" in row["case"]:
            ours, theirs = (f"{row[f'{who}_us']:.1f} ({row[f'{who}_iqr_us']:.1f})" for who in ("ours", "rival"))
            ratio = f"{row['ratio']:.2f}"
            rows.append([row["case"], row["precision"], str(row["threads"]), ours, row["rival"], theirs, ratio])
    return markdown(rows)


def stream_variants_table() -> str:
    """Every variant of the cell, one stream on one thread: beside tensor operations, and beside the plain stream."""
    found = result("engine_stream")
    times = {(row["case"], row["rival"]): row for row in found["rows"] if row["threads"] == 1}
    rows = [["", "us a step (iqr)", "torch operations: us, ratio", "of the plain stream"]]
    for (case, rival), row in times.items():
        if rival == "torch operations":
            theirs = f"{row['rival_us']:.0f}, **{row['ratio']:.1f}x**"
            plain = f"{1 / times[case, 'plain stream']['ratio']:.2f}"
            rows.append([case, f"{row['ours_us']:.2f} ({row['ours_iqr_us']:.2f})", theirs, plain])
    return f"{markdown(rows)}\n\n{measured_on(found)}"


def stream_accuracy() -> str:
    """The largest error of h over a thousand steps."""
    found = result("engine_precision_stream")
    names = list(found["rows"][0]["errors"])
    rows = [["hidden, weights", *names]]
    for row in found["rows"]:
        drawn = f"{row['hidden']}, as torch draws them" + (
            f" x {row['weights_times']:.0f}" if row["weights_times"] > 1 else ""
        )
        rows.append([drawn, *(f"{row['errors'][name]:.1e}" for name in names)])
    return markdown(rows)


def variants_table() -> str:
    """Every variant: times faster than its loop, and its cost beside the plain cell, over the three shapes."""
    found = result("engine_variants")
    threads = sorted({row["threads"] for row in found["rows"]})
    head = [
        f"{n} thread{'s' if n > 1 else ''}: {words}" for n in threads for words in ("faster than the loop", "of plain")
    ]
    rows = [["variant", *head]]
    for name in dict.fromkeys(row["variant"] for row in found["rows"]):
        cells: list[str] = []
        for n in threads:
            own = [row for row in found["rows"] if (row["variant"], row["threads"]) == (name, n)]
            cells.append(ratio_cell([row["ratio"] for row in own]))
            cells.append(", ".join(f"{row['of_plain']:.2f}" for row in own))
        rows.append([name, *cells])
    shapes = ", ".join(dict.fromkeys(row["case"].split(", ", 1)[1] for row in found["rows"]))
    note = (
        f"Shapes: {shapes}. Left the geometric mean and range of the ratios of medians, right the variant's time over "
        f"the plain layer's, shape by shape. Resets: before one step in fifty. {measured_on(found)}"
    )
    return f"{markdown(rows)}\n\n{note}"


def medium_table() -> str:
    """bf16 products against torch's bfloat16 and float32."""
    found = result("engine_medium")
    rows = [["case", "threads", "holdfast medium, ms (iqr)", "torch ms (iqr)", "ratio"]]
    for row in found["rows"]:
        ours, theirs = (f"{row[who]['median_ms']:.2f} ({row[who]['iqr_ms']:.2f})" for who in ("ours", "rival"))
        rows.append([row["case"], str(row["threads"]), ours, theirs, f"{row['ratio']:.2f}"])
    return (
        f"{markdown(rows)}\n\nGeometric means on one and on two threads: {precision_means(found)}. {measured_on(found)}"
    )


def precision_means(found: dict[str, Any]) -> str:
    """By kind of work and rival."""
    means: list[str] = []
    for work in ("training", "inference"):
        for rival in ("torch bfloat16", "torch float32", "bfloat16 module", "autocast"):
            named = [r for r in found["rows"] if r["case"].startswith(work) and r["case"].endswith(rival)]
            each = (ratio_cell([r["ratio"] for r in named if r["threads"] == n]) for n in (1, 2))
            if named:
                means.append(f"{work} against {rival}: {' and '.join(each)}")
    return "; ".join(means)


def amx_table() -> str:
    """Training in medium and high on AMX, shape by shape; means of everything else."""
    medium, high = result("engine_medium_amx"), result("engine_high_amx")
    found = [{(row["case"], row["threads"]): row for row in one["rows"]} for one in (medium, high)]
    rows = [
        ["training", "threads", "medium, ms (iqr)", "over bfloat16", "over float32", "high, ms (iqr)", "over float32"]
    ]
    for case, threads in found[0]:
        if not chosen(case, "training", ", torch float32"):
            continue
        halves = found[0][case.replace("float32", "bfloat16"), threads]
        cells: list[str] = []
        for row in (found[0][case, threads], found[1][case, threads]):
            cells += [f"{row['ours']['median_ms']:.2f} ({row['ours']['iqr_ms']:.2f})", f"{row['ratio']:.2f}"]
        cells.insert(1, f"{halves['ratio']:.2f}")
        rows.append([case.removeprefix("training ").removesuffix(", torch float32"), str(threads), *cells])
    roofs = " and ".join(f"{peak:.0f}" for peak in medium["roof_bf16_gflops"].values())
    note = (
        f"Ratios are torch's median time over ours. Geometric means on one and on two threads: medium, "
        f"{precision_means(medium)}; high, {precision_means(high)}. The roof of bf16 products in registers: {roofs} "
        f"GFLOP/s. {measured_on(medium)}"
    )
    return f"{markdown(rows)}\n\n{note}"


def medium_errors() -> str:
    """How far the precisions are from float64."""
    found = result("engine_medium")["errors"]
    names = list(next(iter(found.values())))
    rows = [["", *names]]
    rows += [[case, *(f"{errors[name]:.1e}" for name in names)] for case, errors in found.items()]
    return markdown(rows)


def recompute_table() -> str:
    """Time and peak memory of a long sequence in chunks."""
    found = result("engine_recompute")
    rows = [["", "threads", "recomputed, ms (iqr)", "plain, ms (iqr)", "ratio", "peak, MB", "plain"]]
    for row in found["rows"]:
        ours, theirs = (f"{row[who]['median_ms']:.0f} ({row[who]['iqr_ms']:.0f})" for who in ("ours", "rival"))
        peaks = (f"{peak:.0f}" for peak in found["peak_megabytes"])
        rows.append([row["case"], str(row["threads"]), ours, theirs, f"{row['ratio']:.2f}", *peaks])
    return f"{markdown(rows)}\n\n{measured_on(found)}"


def measured_on(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return (
        f"{machine['cpu']} (family/model {machine['family_model']}), {machine['instruction_set']}, torch "
        f"{machine['torch']}, commit {machine['commit']}."
    )
