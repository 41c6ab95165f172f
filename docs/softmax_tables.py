"""The table of docs/guide/losses.md, from benchmarks/results/engine_softmax.json; tables.py asks for it."""

from typing import Any

from table_parts import markdown, result


def losses_rows(found: dict[str, Any]) -> list[list[str]]:
    """Times by case and threads, and the peak memory where it was measured; the first row is the head."""
    rows = [
        ["case", "threads", "holdfast ms (iqr)", "rival ms (iqr)", "ratio", "peak MiB, holdfast", "peak MiB, rival"]
    ]
    for row in found["rows"]:
        ours, theirs = (f"{row[who]['median_ms']:.0f} ({row[who]['iqr_ms']:.0f})" for who in ("ours", "rival"))
        peaks = found["peak_mib"].get(row["case"]) if row["threads"] == 1 else None
        memory = ["", ""] if peaks is None else [f"{peaks['ours']:.0f}", f"{peaks['rival']:.0f}"]
        rows.append([row["case"], str(row["threads"]), ours, theirs, f"{row['ratio']:.2f}", *memory])
    return rows


def losses_note(found: dict[str, Any]) -> str:
    """The machine, and the roof of the same run."""
    machine = found["machine"]
    roofs = "; ".join(
        f"{roof['threads']} thread(s): {roof['multiply_adds_in_registers']:.0f} GFLOP/s in registers, "
        f"{roof['torch_mm_1024']:.0f} by `torch.mm`"
        for roof in found["roof_gflops"]
    )
    exact = [row for row in found["rows"] if row["threads"] == 1 and not row["case"].startswith("medium")]
    best = max(row["gflops"] for row in exact)
    return (
        f"{machine['cpu']} (family/model {machine['family_model']}), {machine['instruction_set']}, torch "
        f"{machine['torch']}, commit {machine['commit']}. {roofs}; up to {best:.0f} by the fused loss "
        "in float32, one thread."
    )


def losses_table() -> str:
    """Softmax losses: times and peak memory."""
    found = result("engine_softmax")
    return f"{markdown(losses_rows(found))}\n\n{losses_note(found)}"
