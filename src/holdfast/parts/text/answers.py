"""What a bot gives back: what it understood and what it says; as rows and as a picture."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..drawing import figure_of
from .replying import Written
from .understanding import Understood

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # messages in a picture
WIDTH = 60  # letters of a line in it


@dataclass(frozen=True)
class Answer:
    """The answer to one message; or a part of it, while a reply is being written."""

    number: int  # of the message among the user's, from 1
    message: str
    understood: Understood | None  # None of a model that was not taught intents or slots
    replies: tuple[Written, ...]  # the best first; none of a model that was not taught any

    @property
    def reply(self) -> str:
        return self.replies[0].text if self.replies else ""


@dataclass(frozen=True)
class Answered:
    """A conversation with the answers to the user's messages; of a stream, what is new of it."""

    conversation: str
    answers: tuple[Answer, ...]

    @property
    def reply(self) -> str:
        """The last one."""
        return self.answers[-1].reply if self.answers else ""


def joined(parts: Sequence[Answer]) -> tuple[Answer, ...]:
    """Answers of their parts: neighbours of one number belong together."""
    found: list[Answer] = []
    for one in parts:
        if found and found[-1].number == one.number:
            said = found[-1].replies[0]._replace(text=found[-1].reply + one.reply)
            found[-1] = replace(found[-1], replies=(said,))
        else:
            found.append(one)
    return tuple(found)


def whole(outputs: Sequence[Answered]) -> list[tuple[str, Answer]]:
    """All answers, each with the name of its conversation; what a stream gave in parts is put together."""
    found: list[tuple[str, Answer]] = []
    for name, group in itertools.groupby(outputs, key=lambda one: one.conversation):
        found += [(name, answer) for answer in joined([answer for one in group for answer in one.answers])]
    return found


def answer_rows(outputs: Sequence[Answered]) -> list[dict[str, Any]]:
    """A row per message, or where several replies are given per reply."""
    rows: list[dict[str, Any]] = []
    for name, one in whole(outputs):
        row: dict[str, Any] = {"conversation": name, "message": one.message}
        if (known := one.understood) is not None:
            row |= {"intent": known.intent or "", "confidence": round(known.confidence, 4)}
            row["slots"] = json.dumps([list(slot) for slot in known.slots], ensure_ascii=False)
        if not one.replies:
            rows.append(row)
        for rank, way in enumerate(one.replies, start=1):
            ranked = {"rank": rank, "score": round(way.score, 4)} if len(one.replies) > 1 else {}
            rows.append({**row, **ranked, "reply": way.text})
    return rows


def draw_answers(outputs: Sequence[Answered]) -> "Figure":
    """The beginning of the conversations: messages to the left, replies to the right."""
    lines: list[tuple[str, str, str]] = []
    for name, group in itertools.groupby(whole(outputs)[:SHOWN], key=lambda pair: pair[0]):
        lines.append(("user", f"conversation {shortened(name)}", "white"))
        lines += [line for _, one in group for line in spoken_lines(one)]
    figure: Any = figure_of()(figsize=(8, 0.8 + 0.42 * max(1, len(lines))), layout="constrained")
    axes = figure.subplots()
    for row, (side, text, colour) in enumerate(lines):
        place, align = (0.01, "left") if side == "user" else (0.99, "right")
        box = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"}
        axes.text(place, -row, text.replace("$", r"\$"), ha=align, va="center", fontsize=9, bbox=box)
    axes.set_xlim(0, 1)
    axes.set_ylim(-len(lines), 1)
    axes.set_axis_off()
    return figure


def spoken_lines(one: Answer) -> list[tuple[str, str, str]]:
    """(who, text, colour) of a message, of what was understood, and of the reply."""
    lines = [("user", shortened(one.message), "#e8e8e8")]
    if (known := one.understood) is not None:
        named = ", ".join(f"{name}: {value}" for name, value in known.slots)
        lines.append(
            ("user", shortened(f"{known.intent or 'none of these'} {known.confidence:.0%}  {named}"), "#fff3d6")
        )
    if one.replies:
        lines.append(("bot", shortened(one.reply), "#d6e6f5"))
    return lines


def shortened(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
