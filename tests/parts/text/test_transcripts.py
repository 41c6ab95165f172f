"""Conversations from files, frames and pipes."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from holdfast.parts.errors import DataError
from holdfast.parts.text.arriving_turns import arriving_turns
from holdfast.parts.text.conversation import Conversation, Slot, Turn, told
from holdfast.parts.text.transcripts import Columns, details, read_conversations

ANY = Columns()


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_per_message_with_conversations_mixed(tmp_path: Path) -> None:
    text = "Dialogue ID;Role;Text;Intent;Slots;Facts\n"
    text += (
        '7;Customer;"Hi; where is it?";where;{"city": "Rome"};\n9;customer;Bye;;;\n7;Agent;Here.;;;place=here; near\n'
    )
    first, second = read_conversations(written(tmp_path / "a.csv", text.replace("here; near", "here")), ANY)
    asked = Turn("user", "Hi; where is it?", "where", (Slot("city", "Rome"),), (Slot("place", "here"),))
    assert first == Conversation("7", (asked, Turn("bot", "Here.")))
    assert second == Conversation("9", (Turn("user", "Bye", None, ()),))  # an empty cell of slots: none is named


def test_questions_with_intents_or_answers(tmp_path: Path) -> None:
    found = read_conversations(written(tmp_path / "a.tsv", 'query\tcategory\nmy "card"\tlost\nhello\t\n'), ANY)
    assert found == [
        Conversation("1", (Turn("user", 'my "card"', "lost"),)),
        Conversation("2", (Turn("user", "hello"),)),
    ]
    frame = pd.DataFrame({"question": ["how?", "why?"], "answer": ["so", None]})
    assert read_conversations(frame, ANY)[0].turns == (Turn("user", "how?"), Turn("bot", "so"))
    assert read_conversations(frame, ANY)[1].turns == (Turn("user", "why?"),)


def test_json_lines_of_conversations_and_of_messages(tmp_path: Path) -> None:
    talk: dict[str, Any] = {
        "id": "x",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Book it", "slots": [{"name": "day", "value": "Friday"}], "facts": ["done"]},
            {"role": "assistant", "content": "Booked."},
        ],
    }
    (found,) = read_conversations(written(tmp_path / "a.jsonl", json.dumps(talk) + "\n\n"), ANY)
    assert found.turns == (
        Turn("user", "Book it", None, (Slot("day", "Friday"),), (Slot("done", ""),)),
        Turn("bot", "Booked."),
    )
    lines = '{"chat": 3, "from": "user", "text": "a"}\n{"chat": 3, "from": "bot", "text": "b"}\n'
    (found,) = read_conversations(written(tmp_path / "b.jsonl", lines), ANY)
    assert found == Conversation("3", (Turn("user", "a"), Turn("bot", "b")))
    (found,) = read_conversations(written(tmp_path / "c.json", json.dumps([talk])), ANY)
    assert found.name == "x" and len(found.turns) == 2


def test_text_has_a_message_per_line(tmp_path: Path) -> None:
    found = read_conversations(written(tmp_path / "a.txt", "\na\nb\n\n\n c \n"), ANY)
    assert [(one.name, [turn.text for turn in one.turns]) for one in found] == [("1", ["a", "b"]), ("2", ["c"])]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "who,text\nuser,a\nrobot,b\n", "row 3: the speaker is 'robot'"),
        ("a.csv", "when,where\n1,2\n", "no column of messages among when, where"),
        ("a.csv", "text\n", "no rows but a header"),
        ("a.csv", "who,text\nuser,\nbot, \n", "holds no messages"),
        ("a.csv", 'text,slots\na,"{city: Rome}"\n', "row 2: .* is not JSON"),
        ("a.jsonl", '{"text": "a"}\nnonsense\n', "line 2: it is not JSON"),
        ("a.jsonl", "[1]\n", "value 1 is not an object"),
        ("a.jsonl", '{"turns": []}\n{"text": "a"}\n', "conversation 2 has no list of turns"),
        ("a.csv", 'text\n"a\n', "cannot be read as a table"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_conversations(written(tmp_path / name, text), ANY)


def test_who_the_bot_is_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "who,text\nAnn,a\nZed,b\n")
    (found,) = read_conversations(path, Columns(bot="Zed"))
    assert [turn.speaker for turn in found.turns] == ["user", "bot"]


def test_details_in_every_spelling() -> None:
    wanted = (Slot("city", "Rome"), Slot("day", "Friday"), Slot("day", "Monday"), Slot("urgent", ""))
    given = {"city": "Rome", "day": ["Friday", "Monday"], "urgent": None}
    assert details(given, "") == details(json.dumps(given), "") == wanted
    assert details("city = Rome; day=Friday;day=Monday; urgent;", "") == wanted
    assert details([["city", "Rome"], {"slot": "day", "value": ["Friday", "Monday"]}, "urgent"], "") == wanted
    assert told(wanted) == "city = Rome; day = Friday; day = Monday; urgent"
    for wrong in (3, [3], [{"value": 1}], "{"):
        with pytest.raises(DataError, match="here"):
            details(wrong, "here")


PIPES = [
    "hello\nI lost it\n\nanother\n",
    "text;intent\nhello;greet\n\nI lost it;lost\n",
    '{"conversation": "a", "text": "hello", "facts": {"x": 1}}\n{"conversation": "b", "text": "yes"}\n',
    '{"id": "t", "turns": [{"speaker": "user", "text": "hello"}, {"speaker": "bot", "text": "hi"}]}\n',
    "text\nhello",
]


@pytest.mark.parametrize("text", PIPES)
def test_a_pipe_says_what_a_file_holds_wherever_it_is_cut(text: str, tmp_path: Path) -> None:
    ending = ".jsonl" if text.startswith("{") else ".csv" if text.startswith("text") else ".txt"
    wanted = [
        (one.name, turn)
        for one in read_conversations(written(tmp_path / f"a{ending}", text), ANY)
        for turn in one.turns
    ]

    class Dripping(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(7)

    for source in (io.BytesIO(text.encode()), Dripping(text.encode())):
        found = list(arriving_turns(source, ANY))
        assert [one for one in found if one.turn is not None] == wanted
    with pytest.raises(DataError, match="held nothing"):
        list(arriving_turns(io.BytesIO(b"\n"), ANY))


def test_an_empty_line_ends_a_conversation() -> None:
    found = arriving_turns(io.BytesIO(b"a\n\n\nb\n"), ANY)
    assert [(one.conversation, one.turn is None) for one in found] == [("1", False), ("1", True), ("2", False)]


def test_a_line_of_a_pipe_that_is_wrong_is_named() -> None:
    with pytest.raises(DataError, match="line 2: it is not JSON"):
        list(arriving_turns(io.BytesIO(b'{"text": "a"}\n{"text": \n'), ANY))
    with pytest.raises(DataError, match="line 3: the speaker"):
        list(arriving_turns(io.BytesIO(b"text,who\na,user\nb,nobody\n"), ANY))
