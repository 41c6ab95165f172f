"""What a language model gives back: a text that goes on, or tokens with their surprise; as rows, page and picture."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from holdfast.engine import State

from ..drawing import figure_of
from ..errors import DataError
from ..packing import pack, unpack
from .surprise import Reader
from .tokens import Feed, Vocabulary
from .writing import Past, Wish, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 700  # tokens of a picture
LETTERS = 110  # in a line of it
HOTTEST = 12.0  # bits at which the colour ends


@dataclass(frozen=True)
class Passage:
    """Some tokens of one text."""

    name: str
    tokens: tuple[str, ...]
    bits: np.ndarray | None  # [tokens] float32, the surprise of each; None of what was written, not read

    @classmethod
    def joined(cls, name: str, parts: Sequence[Self]) -> Self:
        """One passage of its parts."""
        bits = [part.bits for part in parts if part.bits is not None]
        tokens = tuple(token for part in parts for token in part.tokens)
        return cls(name, tokens, np.concatenate(bits) if bits else None)

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def texts_of(passages: Sequence[Passage]) -> list[Passage]:
    """One passage per text: neighbours of one name belong together."""
    found: list[list[Passage]] = []
    for one in passages:
        if found and found[-1][0].name == one.name:
            found[-1].append(one)
        else:
            found.append([one])
    return [Passage.joined(parts[0].name, parts) for parts in found]


def passage_rows(outputs: Sequence[Passage]) -> list[dict[str, Any]]:
    """A row per text that was written; of texts that were read a row per token."""
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(texts_of(outputs), start=1):
        if one.bits is None:
            rows.append({"text": one.text})
            continue
        pairs = zip(one.tokens, one.bits.tolist(), strict=True)
        rows += [{"number": number, "token": token, "bits": round(bits, 4)} for token, bits in pairs]
    return rows


def write_text(outputs: Sequence[Passage], path: Path) -> None:
    """Plain text, a line's end behind each."""
    path.write_text("".join(f"{one.text}\n" for one in texts_of(outputs)), encoding="utf-8")


def write_html(outputs: Sequence[Passage], path: Path) -> None:
    """A page on which surprising tokens glow."""
    lines = ['<!doctype html><meta charset="utf-8"><title>Surprise</title>', f"<style>{STYLE}</style>"]
    for one in texts_of(outputs):
        lines.append(f"<h2>{html.escape(one.name)}</h2><p>")
        bits = np.zeros(len(one.tokens)) if one.bits is None else one.bits
        for token, value in zip(one.tokens, bits.tolist(), strict=True):
            heat = min(max(value, 0.0) / HOTTEST, 1.0)
            said = (
                f' style="background:rgba(225,87,40,{heat:.2f})" title="{value:.1f} bits"'
                if one.bits is not None
                else ""
            )
            lines.append(f"<span{said}>{html.escape(token)}</span>")
        lines.append("</p>")
    path.write_text("".join(lines) + "\n", encoding="utf-8")


STYLE = "body{max-width:46em;margin:2em auto;font:17px/1.6 serif}p{white-space:pre-wrap}h2{font:bold 14px sans-serif}"


def draw_passages(outputs: Sequence[Passage]) -> "Figure":
    """The beginning of the first text, token by token, the surprising ones dark; what was written is not coloured."""
    one = texts_of(outputs)[0] if outputs else Passage("", (), None)
    lines = list(laid_out(one))
    figure: Any = figure_of()(figsize=(11, 1.2 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for row, line in enumerate(lines):
        at = 0
        for token, bits in line:
            heat = min(max(bits, 0.0) / HOTTEST, 1.0)
            axes.text(at, -row, token, family="monospace", fontsize=8, backgroundcolor=(0.88, 0.34, 0.16, heat))
            at += len(token)
    axes.set_xlim(0, LETTERS)
    axes.set_ylim(-len(lines), 1)
    axes.set_axis_off()
    mean = "" if one.bits is None else f": {one.bits.mean():.2f} bits per token"
    axes.set_title(f"{one.name}{mean}", loc="left", fontsize=10, fontweight="bold")
    return figure


def laid_out(one: Passage) -> Iterator[list[tuple[str, float]]]:
    """Lines of (token, bits)."""
    bits = np.zeros(len(one.tokens)) if one.bits is None else one.bits
    line: list[tuple[str, float]] = []
    width = 0
    for token, value in zip(one.tokens[:SHOWN], bits.tolist(), strict=False):
        ends = "\n" in token
        token = token.replace("\n", " ").replace("$", r"\$")
        if width + len(token) > LETTERS:
            yield line
            line, width = [], 0
        line.append((token, value))
        width += len(token)
        if ends:
            yield line
            line, width = [], 0
    if line:
        yield line


class PassageStream:
    """Reads a text as it comes. Tokens with their surprise are given at once; or nothing, until it writes on."""

    def __init__(self, reader: Reader, vocabulary: Vocabulary, wish: Wish | None) -> None:
        self.reader, self.vocabulary, self.wish = reader, vocabulary, wish
        self.feed, self.past = Feed(vocabulary.unit), Past()
        self.kind = f"language {len(vocabulary)} {vocabulary.unit}, {reader.net.embedding.embedding_dim} wide"

    def push(self, piece: str) -> list[Passage]:
        return self.take(self.feed.push(piece))

    def take(self, text: str) -> list[Passage]:
        tokens = self.vocabulary.encode(text)
        if not len(tokens):
            return []
        nats = self.reader.read(tokens)
        self.past.add(tokens.tolist())
        if self.wish is not None:
            return []
        return [Passage("", tuple(self.vocabulary.spelled(tokens)), (nats / math.log(2)).astype(np.float32))]

    def flush(self) -> Iterator[Passage]:
        """The rest of what was read; or, piece by piece, how it goes on. Then another text may come."""
        yield from self.take(self.feed.flush())
        if self.wish is not None:
            yield Passage("", ("",), None)  # so that there is an answer even where nothing is written
            for text in write(self.reader, self.vocabulary, self.past, self.wish):
                if text:
                    yield Passage("", (text,), None)
        self.reader.forget()
        self.past = Past()

    def state(self) -> bytes:
        """All that was read, as bytes: a few numbers per memory cell, the cache, and the last tokens."""
        reader = self.reader
        arrays = {
            "h": reader.h.numpy(),
            "followed": reader.followed.numpy(),
            "past": np.array(self.past.tokens, np.int64),
        }
        for number, state in enumerate(reader.states or ()):
            arrays |= {f"h{number}": state.h.numpy(), f"c{number}": state.c.numpy()}
        return pack(
            self.kind, {"held": self.feed.held, "last": reader.last, "layers": len(reader.states or ())}, arrays
        )

    def restore(self, state: bytes) -> None:
        """Go on from state(). Raises DataError where the bytes are not a state of this model."""
        values, arrays = unpack(self.kind, state)
        try:
            found = [(arrays[f"h{n}"], arrays[f"c{n}"]) for n in range(values["layers"])]
            self.reader.forget()
            self.reader.last = int(values["last"])
            self.reader.states = tuple(State(*(torch.tensor(part) for part in pair)) for pair in found) or None
            self.reader.h, self.reader.followed = torch.tensor(arrays["h"]), torch.tensor(arrays["followed"])
            self.feed.held, self.past = str(values["held"]), Past(arrays["past"].tolist())
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"these bytes are not the state of a language model: {error}") from None
