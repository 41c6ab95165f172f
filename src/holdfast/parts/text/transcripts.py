"""Conversations from files and data frames: tables, JSON lines and plain text.

A table has a row per message (conversation, speaker, text), or per question with its answer or its intent.
"""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from ..errors import DataError
from ..table import choose_column, read_table
from .conversation import Conversation, Slot, Speaker, Turn
from .pairs import ending, lines_of, text_of

log = logging.getLogger("holdfast")

TEXTS: Final = ("text", "message", "utterance", "query", "question", "content", "sentence", "input", "request", "body")
REPLIES: Final = ("reply", "response", "answer", "output")
CONVERSATIONS: Final = ("conversation", "dialogue", "dialog", "session", "ticket", "thread", "chat")
SPEAKERS: Final = ("speaker", "role", "from", "sender", "author", "who", "side")
INTENTS: Final = ("intent", "category", "label", "class", "topic")
SLOTS: Final = ("slots", "entities")
FACTS: Final = ("facts", "knowledge", "context", "results", "acts")
TURNS: Final = ("turns", "messages", "conversation", "dialogue", "dialog", "utterances", "log")
USERS: Final = (
    "user",
    "customer",
    "human",
    "client",
    "visitor",
    "caller",
    "guest",
    "member",
    "consumer",
    "u",
    "inbound",
)
BOTS: Final = ("bot", "assistant", "agent", "support", "operator", "service", "wizard", "advisor", "s", "outbound")
SYSTEM: Final = "system"  # the bot; but beside an assistant it is a note to that
ENDINGS: Final = (".csv", ".tsv", ".tab", ".parquet", ".json", ".jsonl", ".ndjson", ".txt")


@dataclass(frozen=True)
class Columns:
    """Which column, or key of a JSON object, is what. None: found by its name."""

    text: str | None = None
    reply: str | None = None
    conversation: str | None = None
    speaker: str | None = None
    intent: str | None = None
    slots: str | None = None
    facts: str | None = None
    bot: str | None = None  # the speaker who is the bot; then all others are users

    def found_in(self, names: Sequence[str], where: str) -> "Columns":
        """Of these names. Raises DataError where none is known for texts."""
        found: dict[str, str | None] = {}
        known = {
            "text": TEXTS,
            "reply": REPLIES,
            "conversation": CONVERSATIONS,
            "speaker": SPEAKERS,
            "intent": INTENTS,
            "slots": SLOTS,
            "facts": FACTS,
        }
        for what, usual in known.items():
            free = [name for name in names if name not in found.values()]
            found[what] = choose_column(free, getattr(self, what), usual, where)
        if found["text"] is None:
            hint = "name it with --text-column"
            raise DataError(f"{where} has no column of messages among {', '.join(names)}", hint=hint)
        return replace(self, **found)


class Row(NamedTuple):
    """A row of a table, or a JSON object."""

    conversation: str | None
    speaker: Speaker | None
    turn: Turn  # the user's, or whoever's it is
    reply: str


def read_conversations(source: Any, columns: Columns) -> list[Conversation]:
    """A file, a folder, several of either, or a data frame -> conversations. Raises DataError naming file and row."""
    if isinstance(source, (list, tuple)):
        return [one for item in cast(Sequence[Any], source) for one in read_conversations(item, columns)]
    if not isinstance(source, (str, Path)):
        return of_table(source, columns, "the table")
    path = Path(source)
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.is_file() and ending(one) in ENDINGS]
        if not files:
            raise DataError(f"{path} holds no conversations", hint=f"looked for: {', '.join(ENDINGS)}")
        return [one for file in files for one in read_conversations(file, columns)]
    kind = ending(path)
    if kind == ".parquet":
        return of_table(path, columns, str(path))
    text = text_of(path)
    if kind in (".csv", ".tsv", ".tab"):
        return of_csv(text, columns, str(path))
    if kind in (".json", ".jsonl", ".ndjson"):
        return of_objects(objects(text, kind == ".json", str(path)), columns, str(path))
    return of_lines(lines_of(text))


def of_lines(lines: Sequence[str]) -> list[Conversation]:
    """A message of the user on each line; behind an empty one another conversation begins."""
    found: list[list[Turn]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(Turn("user", line.strip()))
        elif found[-1]:
            found.append([])
    return [Conversation(str(number), tuple(turns)) for number, turns in enumerate(found, start=1) if turns]


def of_csv(text: str, columns: Columns, where: str) -> list[Conversation]:
    """A table with a header, whatever its delimiter."""
    delimiter = delimiter_of(text.split("\n", 1)[0])
    try:
        rows = [cells for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if cells]
    except csv.Error as error:
        raise DataError(f"{where} cannot be read as a table: {error}") from None
    names = [name.strip() for name in rows[0]]
    return of_rows([dict(zip(names, cells, strict=False)) for cells in rows[1:]], columns, names, where)


def delimiter_of(header: str) -> str:
    return max(",;\t|", key=header.count)


def of_table(source: Any, columns: Columns, where: str) -> list[Conversation]:
    """A data frame, or a file that becomes one."""
    table = read_table(source, dates=False)
    return of_rows(table.to_dicts(), columns, table.columns, where)


def of_rows(
    rows: Sequence[Mapping[str, Any]], columns: Columns, names: Sequence[str], where: str
) -> list[Conversation]:
    """A table's rows, a header above them."""
    if not rows:
        raise DataError(f"{where} has no rows but a header")
    found = columns.found_in(names, where)
    log.info("%s: %s", where, ", ".join(f"{what} {name!r}" for what, name in vars(found).items() if name is not None))
    read = [row_of(row, found, f"{where}, row {number}") for number, row in enumerate(rows, start=2)]
    return gathered(read, where)


def objects(text: str, whole: bool, where: str) -> list[Mapping[str, Any]]:
    """JSON objects: a file's list, or one per line."""
    try:
        if whole:
            value = json.loads(text)
            found = value if isinstance(value, list) else [value]
        else:
            found = [parsed(line, number) for number, line in enumerate(lines_of(text), start=1) if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, line {error.lineno}: it is not JSON: {error.msg}") from None
    for number, one in enumerate(found, start=1):
        if not isinstance(one, dict):
            raise DataError(f"{where}: value {number} is not an object but {str(one)[:40]!r}")
    return found


def parsed(line: str, number: int) -> Any:
    """A line's JSON; the error names the line of the whole."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "\n" * (number - 1) + line, number - 1 + error.pos) from None


def of_objects(found: Sequence[Mapping[str, Any]], columns: Columns, where: str, first: int = 1) -> list[Conversation]:
    """JSON objects that are each a conversation, or each a message; ``first`` is the number of the first one."""
    if not found:
        raise DataError(f"{where} holds nothing")
    if turns_of(found[0]) is None:
        names = list(dict.fromkeys(name for one in found for name in one))
        return of_rows(found, columns, names, where)
    read: list[Row] = []
    for number, one in enumerate(found, start=first):
        turns, here = turns_of(one), f"{where}, conversation {number}"
        if turns is None:
            raise DataError(f"{here} has no list of turns", hint=f"looked for: {', '.join(TURNS)}")
        name = str(one.get("id", one.get("name", number)))
        names = list(dict.fromkeys(key for turn in turns for key in turn))
        keys = columns.found_in(names, here) if turns else columns
        assistant = keys.speaker is not None and any(turn.get(keys.speaker) == "assistant" for turn in turns)
        for place, turn in enumerate(turns, start=1):
            if assistant and keys.speaker is not None and turn.get(keys.speaker) == SYSTEM:
                continue
            read.append(row_of(turn, keys, f"{here}, turn {place}")._replace(conversation=name))
    return gathered(read, where)


def turns_of(one: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The list of turns of a JSON object, if it has one."""
    for name in TURNS:
        value = one.get(name)
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in cast(list[Any], value)):
            return cast(list[Mapping[str, Any]], value)
    return None


def row_of(cells: Mapping[str, Any], columns: Columns, where: str) -> Row:
    """One message. Raises DataError where its speaker is not known, or details cannot be read."""

    def cell(name: str | None) -> str:
        value = None if name is None else cells.get(name)
        return "" if value is None else str(value).strip()

    speaker = speaker_of(cell(columns.speaker), columns.bot, where) if columns.speaker is not None else None
    given = columns.slots is not None and cells.get(columns.slots) is not None
    slots = details(cells.get(columns.slots or ""), where) if given else None
    facts = details(cells.get(columns.facts or ""), where)
    intent = cell(columns.intent) or None
    if speaker == "bot":
        intent = slots = None
    turn = Turn(speaker or "user", cell(columns.text), intent, slots, facts)
    return Row(cell(columns.conversation) or None, speaker, turn, cell(columns.reply))


def speaker_of(name: str, bot: str | None, where: str) -> Speaker:
    """Who a name stands for."""
    if bot is not None:
        return "bot" if name == bot else "user"
    plain = name.lower()
    if plain in USERS:
        return "user"
    if plain in BOTS or plain == SYSTEM:
        return "bot"
    hint = f"say who is the bot with --bot; known as such: {', '.join((*BOTS, SYSTEM))}; as users: {', '.join(USERS)}"
    raise DataError(f"{where}: the speaker is {name!r}", hint=hint)


def details(value: Any, where: str) -> tuple[Slot, ...]:
    """Names and values: a JSON object, or a text such as "city = Rome; day = Friday"."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: {value[:40]!r} is not JSON: {error.msg}") from None
    if isinstance(value, str):
        parts = [part.split("=", 1) for part in value.split(";") if part.strip()]
        return tuple(Slot(part[0].strip(), part[1].strip() if len(part) > 1 else "") for part in parts)
    if isinstance(value, dict):
        pairs = list(cast(dict[str, Any], value).items())
    elif isinstance(value, list):
        pairs = [pair_of(one, where) for one in cast(list[Any], value)]
    else:
        raise DataError(f"{where}: {str(value)[:40]!r} is no list of names and values", hint='such as {"city": "Rome"}')
    return tuple(Slot(str(name), text) for name, one in pairs for text in spelled(one))


def pair_of(one: Any, where: str) -> tuple[str, Any]:
    """One of a list of details: {"name": ..., "value": ...}, [name, value], or a name."""
    if isinstance(one, str):
        return one, ""
    if isinstance(one, dict):
        known = cast(dict[str, Any], one)
        name = next((known[key] for key in ("name", "slot", "entity") if key in known), None)
        if name is not None:
            return str(name), known.get("value", "")
    if isinstance(one, list) and len(cast(list[Any], one)) in (1, 2):
        pair = cast(list[Any], one)
        return str(pair[0]), pair[1] if len(pair) == 2 else ""
    raise DataError(f"{where}: {str(one)[:40]!r} is no detail", hint='such as {"name": "city", "value": "Rome"}')


def spelled(value: Any) -> list[str]:
    """A value as text; of a list every one."""
    if isinstance(value, list):
        return [text for one in cast(list[Any], value) for text in spelled(one)]
    return ["" if value is None else str(value).strip()]


def gathered(rows: Sequence[Row], where: str) -> list[Conversation]:
    """Rows put together: those of one conversation; without names those of a table with speakers, or each alone."""
    found: dict[str, list[Turn]] = {}
    alone = all(row.speaker is None for row in rows)
    for number, row in enumerate(rows, start=1):
        join(found.setdefault(named(row, number, alone), []), row)
    if not any(found.values()):
        raise DataError(f"{where} holds no messages: all of them are empty")
    return [Conversation(name, tuple(turns)) for name, turns in found.items() if turns]


def named(row: Row, number: int, alone: bool) -> str:
    """The conversation of a row: its own name; where nobody names any, that row, or one for all that have speakers."""
    return row.conversation or (str(number) if alone else "1")


def join(turns: list[Turn], row: Row) -> None:
    """A row put behind the turns of its conversation. A bot's facts are those of the message that it answers."""
    turn = row.turn
    if turn.speaker == "bot" and turn.facts:
        if turns and turns[-1].speaker == "user":
            turns[-1] = replace(turns[-1], facts=(*turns[-1].facts, *turn.facts))
        turn = replace(turn, facts=())
    if turn.text:
        turns.append(turn)
    if row.reply:
        turns.append(Turn("bot", row.reply))
