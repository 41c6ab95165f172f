"""The table of the experiments of 1997."""

import statistics
from typing import Any

from table_parts import markdown, result


def long_memory_table() -> str:
    """The experiments of 1997: the paper's figures, ours, the plain recurrent network's."""
    found = result("long_memory")
    head = [
        "",
        "task",
        "lag",
        "paper: sequences",
        "wrong",
        "weights",
        "**LSTM**: solved",
        "sequences",
        "wrong",
        "weights",
    ]
    rows = [[*head, "s", "RNN: solved", "wrong"]]
    rows += [long_memory_row(row) for row in found["rows"].values()]
    recipe, machine = found["recipe"], found["machine"]
    note = (
        "Sequences: presented until success, in the paper the mean; ours the mean of the trials that succeeded "
        "(least-most). Wrong: of 2,560 new sequences, the mean. s: seconds of processor time of one trial of ours, one "
        f"thread of {machine['cpu']} (family/model {machine['family_model']}), {machine['instruction_set']}, "
        f"other jobs beside it. Recipe: {recipe['hidden']} units, Adam, learning rate {recipe['learning_rate']}, "
        f"batches of {recipe['batch']}, gradients clipped at {recipe['clip']:g}."
    )
    return f"{markdown(rows)}\n\n{note}"


def long_memory_row(row: dict[str, Any]) -> list[str]:
    ours, rival = (row.get(who, []) for who in ("holdfast.LSTM", "torch.nn.RNN"))
    solved = [one for one in ours if one["solved"]]
    counts = [one["sequences"] for one in solved]
    sequences = f"none in {row['most']:,}"
    if solved:
        sequences = f"**{statistics.mean(counts):,.0f}** ({min(counts):,}-{max(counts):,})"
    paper = [f"{row['paper_after']:,}", "" if row["paper_wrong"] is None else f"{row['paper_wrong']:g}"]
    return [
        row["name"],
        row["words"],
        str(row["lag"]),
        *paper,
        f"{row['paper_weights']:,}",
        share(ours),
        sequences,
        f"{statistics.mean([one['wrong'] for one in solved or ours]):,.1f}",
        f"{row['weights']:,}",
        f"{statistics.mean([one['seconds'] for one in ours]):.1f}",
        share(rival),
        f"{statistics.mean([one['wrong'] for one in rival]):,.0f}" if rival else "",
    ]


def share(outcomes: list[dict[str, Any]]) -> str:
    """Solved trials of all trials."""
    return f"{sum(one['solved'] for one in outcomes)} of {len(outcomes)}" if outcomes else ""
