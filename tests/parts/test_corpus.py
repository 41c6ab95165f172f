"""Texts from files, a piece at a time."""

import lzma
from pathlib import Path

import numpy as np
import pytest

from holdfast.parts.errors import DataError
from holdfast.parts.text import corpus, token_file
from holdfast.parts.text.corpus import Text, read_texts


def test_a_file_in_pieces_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE", 7)  # cuts letters of several bytes in two
    text = "Übergrößenträger, ☃ and 日本語\n" * 5
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(text.encode()))
    for one in read_texts(tmp_path):
        assert one.whole() == text and len(list(one.pieces())) > 10


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_a_cut_loses_nothing_and_keeps_lines_whole(tmp_path: Path, share: float) -> None:
    text = "".join(f"line {n} — ☃\n" for n in range(50))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    for one in (*read_texts(tmp_path / "a.txt"), Text("memory", text)):
        before, after = one.cut(share)
        assert before.whole() + after.whole() == text
        assert before.whole() == "" or before.whole().endswith("\n")
        assert abs(len(before.whole()) / len(text) - share) < 0.06


def test_a_text_without_lines_is_cut_between_letters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("☃" * 100, encoding="utf-8")
    (one,) = read_texts(tmp_path / "a.txt")
    before, after = one.cut(0.5)
    assert before.whole() + after.whole() == "☃" * 100 and before and after


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"fine\nfine\nb\xe4d\n", "not UTF-8 near line"), (b"a\0b", "zero byte"), (b" \n\n", "is empty")],
)
def test_what_is_no_text_is_named(tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(DataError, match=said):
        read_texts(tmp_path / "a.txt")


def test_many_tokens_go_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "LARGEST_HELD", 64)
    parts = [np.arange(n, n + 10) for n in range(0, 100, 10)]
    found = token_file.gathered(parts, 1000)
    assert isinstance(found, np.memmap) and found.dtype == np.uint16 and found.tolist() == list(range(100))
    assert token_file.gathered(parts[:1], 100_000).dtype == np.int32
