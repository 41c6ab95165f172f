"""Text files of any size, read a piece at a time."""

import codecs
import gzip
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from ..errors import DataError
from ..table import arriving

PIECE = 1 << 20  # bytes read at once
ENDINGS = (".txt", ".md", ".text", ".tokens", ".gz", ".xz")  # files of a folder that are looked into


@dataclass(frozen=True)
class Text:
    """A text in memory, or a span of a file that is read when it is needed."""

    name: str
    content: str = ""
    path: str | None = None  # then the text is what lies there between two bytes
    start: int = 0
    end: int = 0

    def pieces(self) -> Iterator[str]:
        """The text in pieces that fit into memory."""
        if self.path is None:
            yield self.content
            return
        decoder = codecs.getincrementaldecoder("utf-8")()
        with opened(Path(self.path)) as file:
            file.seek(self.start)
            left = self.end - self.start
            while left > 0 and (raw := file.read(min(PIECE, left))):
                left -= len(raw)
                yield decoder.decode(raw)
        yield decoder.decode(b"", final=True)

    def whole(self) -> str:
        return "".join(self.pieces())

    def __bool__(self) -> bool:
        return self.end > self.start if self.path is not None else bool(self.content)

    def cut(self, share: float) -> tuple[Self, Self]:
        """The text before and after a share of it; the border is the end of a line where one is near."""
        if self.path is None:
            middle = border(self.content, int(share * len(self.content)))
            return replace(self, content=self.content[:middle]), replace(self, content=self.content[middle:])
        guess = self.start + int(share * (self.end - self.start))
        with opened(Path(self.path)) as file:
            file.seek(guess)
            near = file.read(min(PIECE, self.end - guess))
        inside = near.find(b"\n") + 1
        while not inside and near and near[0] & 0xC0 == 0x80:  # not in the middle of a letter
            near, guess = near[1:], guess + 1
        return replace(self, end=guess + inside), replace(self, start=guess + inside)


def decoded(source: BinaryIO) -> Iterator[str]:
    """UTF-8 text from a pipe, as it comes. Raises DataError where it is not, or where nothing comes."""
    decoder, heard = codecs.getincrementaldecoder("utf-8")(), False
    try:
        for raw in arriving(source):
            heard = True
            if text := decoder.decode(raw):
                yield text
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error.reason}", hint="text in UTF-8 is read") from None
    if not heard:
        raise DataError("standard input held nothing", hint="a text is read from there")


def border(text: str, guess: int) -> int:
    """The end of the line that a place lies in, or the place where no line ends."""
    end = text.find("\n", guess) + 1
    return end if 0 < end < len(text) else guess


def opened(path: Path) -> BinaryIO:
    """A file's bytes, unpacked."""
    kind = path.suffix.lower()
    opener: Any = gzip.open if kind == ".gz" else lzma.open if kind == ".xz" else Path.open
    return cast(BinaryIO, opener(path, "rb"))


def read_texts(source: Any) -> list[Text]:
    """A file, a folder of them, several of either -> texts. Raises DataError naming file and line."""
    if isinstance(source, (list, tuple)):
        return [text for one in cast(Sequence[Any], source) for text in read_texts(one)]
    if not isinstance(source, (str, Path)):
        raise DataError(f"a {type(source).__name__} is not text", hint="hand in paths of text files")
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
        if not found:
            raise DataError(f"{path} holds no text files", hint=f"looked for: {', '.join(ENDINGS)}")
        return [read_text(one) for one in found]
    return [read_text(path)]


def read_text(path: Path) -> Text:
    """One file, looked through once: it must be UTF-8 and hold something."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="check the path")
    decoder, size, lines = codecs.getincrementaldecoder("utf-8")(), 0, 0
    blank = True
    try:
        with opened(path) as file:
            while raw := file.read(PIECE):
                text = decoder.decode(raw)
                size, lines = size + len(raw), lines + text.count("\n")
                blank = blank and not text.strip()
                if "\0" in text:
                    raise DataError(f"{path} is not text: it holds a zero byte", hint="hand in UTF-8 text")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        hint = "save it as UTF-8; from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW"
        raise DataError(f"{path} is not UTF-8 near line {lines + 1}", hint=hint) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if blank:
        raise DataError(f"{path} is empty")
    return Text(path.name, path=str(path), end=size)
