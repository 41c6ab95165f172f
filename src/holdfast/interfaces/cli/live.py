"""A model at a pipe or a terminal: answers as they come."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from ...parts.errors import DataError
from ...parts.table import write_rows
from ...training.application import Prose
from ...training.model import Model
from . import output

PROMPT = "> "


def run(model: Model[Any, Any, Any, Any, Any, Any], kind: str, out: Path | None) -> int:
    """Feed standard input to a stream. On a terminal, where text is answered with text, that is a conversation."""
    stream, application, heard = model.stream(), model.application, False
    target = sys.stdout if out is None else out.open("w", encoding="utf-8", newline="")
    teller = Teller(model, kind, target)
    typed = kind == "text" and out is None and sys.stdin.isatty()
    try:
        prompt(typed)
        for piece in application.pieces(sys.stdin.buffer):
            teller.tell(stream.push(piece))
            heard = True
            prompt(typed)
        if not heard:
            raise DataError("standard input held no rows", hint="a header line, then rows, as in a file")
        teller.tell(stream.flush())
    finally:
        if out is not None:
            target.close()
    return 0


def prompt(typed: bool) -> None:
    if typed:
        output.errors.print(PROMPT, end="", markup=False)


class Teller:
    """Writes what a stream gives: rows, each line complete when it is written; or text, as soon as it is there."""

    def __init__(self, model: Model[Any, Any, Any, Any, Any, Any], kind: str, target: TextIO) -> None:
        self.model, self.kind, self.target, self.header = model, kind, target, True
        self.prose = model.application.prose if kind == "text" else None

    def tell(self, outputs: Iterable[Any]) -> None:
        """What one push gave."""
        if self.prose is None:
            self.write(self.model.rows(list(outputs)))
            return
        spoken = False
        for one in outputs:  # one by one: an application that generates computes them while they are read
            spoken = self.say(one, self.prose) or spoken
        if spoken and self.prose.end != "\n":
            self.target.write("\n")
            self.target.flush()

    def say(self, one: Any, prose: Prose) -> bool:
        """A piece of text; or rows, where there is none in them."""
        rows = self.model.rows([one])
        if not rows or any(prose.column not in row for row in rows):
            self.write(rows)
            return False
        self.target.writelines(f"{row[prose.column]}{prose.end}" for row in rows)
        self.target.flush()
        return True

    def write(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            write_rows(rows, self.target, "csv" if self.kind == "text" else self.kind, header=self.header)
            self.header = False
        self.target.flush()
