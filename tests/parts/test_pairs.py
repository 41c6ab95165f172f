"""Pairs of sentences: files of every kind, pipes, what is held out, words in two languages, words cut anew."""

import gzip
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from holdfast.parts.errors import DataError
from holdfast.parts.text import made_up_pairs, tokens
from holdfast.parts.text.bpe_dropout import cut_words, words_in
from holdfast.parts.text.lexicon import learn_lexicon
from holdfast.parts.text.pairs import Pair, Sides, arriving_sources, read_pairs
from holdfast.parts.text.parallel import held_out, in_numbers, references_of
from holdfast.parts.text.translating import Line, between_words, copied

WANTED = [Pair('He said "no".', "Er sagte „nein“."), Pair("", ""), Pair("1, 2", "NA")]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def table(delimiter: str, header: str) -> str:
    quoted = delimiter == ","
    first = '"He said ""no"".",Er sagte „nein“.' if quoted else 'He said "no".\tEr sagte „nein“.'
    return "\n".join([header, first, delimiter, f'"1, 2"{delimiter}NA' if quoted else f"1, 2{delimiter}NA", ""])


@pytest.mark.parametrize(
    ("name", "text", "sides"),
    [
        ("a.tsv", table("\t", "source\ttarget"), Sides()),
        ("a.tsv", table("\t", "EN\tde"), Sides()),
        ("a.tsv", table("\t", "mine\tyours"), Sides("mine", "yours")),
        ("a.txt", table("\t", "").removeprefix("\n"), Sides()),
        ("a.csv", table(",", "source,translation"), Sides()),
        ("a.csv", table(",", "mine,yours"), Sides()),
        ("a.csv", table(",", "english,german"), Sides()),
    ],
)
def test_tables_keep_every_row_and_every_letter(name: str, text: str, sides: Sides, tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, name, text), sides) == WANTED


def test_columns_may_be_the_other_way_round(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "id\tde\ten\n1\tja\tyes\n")
    assert read_pairs(path, Sides("en", "de")) == [Pair("yes", "ja")]
    assert read_pairs(path, Sides()) == [Pair("ja", "yes")]
    with pytest.raises(DataError, match="did you mean 'en'"):
        read_pairs(path, Sides("eng", "de"))
    with pytest.raises(DataError, match="--source-column"):
        read_pairs(written(tmp_path, "b.csv", "a,b,c\n1,2,3\n"), Sides())


def test_plain_lines_keep_their_place(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one\n\nthree\r\n")
    assert read_pairs(path, Sides()) == [Pair("one"), Pair(""), Pair("three")]


def test_two_text_files_are_parallel_and_of_one_length(tmp_path: Path) -> None:
    left, right = written(tmp_path, "t.en", "a\nb\n"), tmp_path / "t.de.gz"
    right.write_bytes(gzip.compress(b"x\ny\n"))
    assert read_pairs([left, right], Sides()) == [Pair("a", "x"), Pair("b", "y")]
    right.write_bytes(gzip.compress(b"x\n"))
    with pytest.raises(DataError, match=r"2 lines.* has 1"):
        read_pairs([left, right], Sides())


def test_frames_and_folders(tmp_path: Path) -> None:
    frame = pl.DataFrame({"en": ["a", None], "de": ["x", "y"]})
    assert read_pairs(frame, Sides()) == [Pair("a", "x"), Pair("", "y")]
    frame.write_parquet(tmp_path / "a.parquet")
    written(tmp_path, "b.tsv", "en\tde\nc\tz\n")
    assert read_pairs(tmp_path, Sides()) == [Pair("a", "x"), Pair("", "y"), Pair("c", "z")]


TMX = """<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-GB"/><body>
<tu><tuv xml:lang="de-DE"><seg>Guten <bpt i="1"/>Tag</seg></tuv><tuv xml:lang="en-GB"><seg>Good day</seg></tuv></tu>
<tu><tuv xml:lang="en-GB"><seg>alone</seg></tuv></tu>
<tu><tuv xml:lang="EN-GB"><seg>yes
</seg></tuv><tuv xml:lang="de"><seg>ja</seg></tuv><tuv xml:lang="fr"><seg>oui</seg></tuv></tu>
</body></tmx>"""


def test_translation_memories(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tmx", TMX)
    assert read_pairs(path, Sides()) == [Pair("Good day", "Guten Tag"), Pair("yes", "ja")]
    assert read_pairs(path, Sides("fr", "en")) == [Pair("oui", "yes")]
    with pytest.raises(DataError, match="in es; known: de"):
        read_pairs(path, Sides("es"))
    with pytest.raises(DataError, match="not TMX"):
        read_pairs(written(tmp_path, "b.tmx", TMX[:200]), Sides())


@pytest.mark.parametrize("raw", [b"one\n\nthree", b"one\tx\n\nthree\ty\n", b"de\ten\nx\tone\n\ny\tthree\n"])
def test_a_pipe_gives_the_source_of_every_line_as_it_comes(raw: bytes) -> None:
    class Slowly(io.RawIOBase):
        def __init__(self) -> None:
            self.left = raw

        def read1(self, _: int) -> bytes:
            first, self.left = self.left[:3], self.left[3:]
            return first

    pieces = list(arriving_sources(Slowly(), Sides(*("en", "de") if raw[:2] == b"de" else ())))  # pyright: ignore
    assert [line for piece in pieces for line in piece] == ["one", "", "three"] and len(pieces) > 1
    with pytest.raises(DataError, match="line 2"):
        list(arriving_sources(io.BytesIO(b"ok\n\xff\n"), Sides()))
    with pytest.raises(DataError, match="nothing"):
        list(arriving_sources(io.BytesIO(b""), Sides()))


def test_what_is_held_out_is_on_neither_side_of_what_is_learned() -> None:
    pairs = [Pair(f"s{n % 50}", f"t{n // 2 % 40}") for n in range(200)] + [Pair("s1"), Pair("", "t1")]
    train, valid = held_out(pairs, 0.1, np.random.default_rng(0))
    assert train and len({pair.source for pair in valid}) == 5
    assert not {pair.source for pair in train} & {pair.source for pair in valid}
    assert not {pair.target for pair in train} & {pair.target for pair in valid}
    assert all(pair.source and pair.target for pair in [*train, *valid])
    assert references_of([Pair("a", "x"), Pair("b"), Pair("a", "y")]) == {"a": ["x", "y"]}


def made_up(count: int) -> list[tuple[str, str]]:
    dice = np.random.default_rng(0)
    return [made_up_pairs.sentence(dice) for _ in range(count)]


def test_a_lexicon_is_learned_from_sentences_in_another_order() -> None:
    lexicon = learn_lexicon(made_up(800))
    right = sum(lexicon.table[word] == translation for word, translation in made_up_pairs.WORDS.items())
    assert right >= 21, lexicon.table  # of 22; counting alone finds few: the articles meet everything
    assert lexicon.translate("The  fox, Zorblax!") == "la  volpa, Zorblax!"
    assert learn_lexicon([]).translate("a b") == "a b"


def test_words_are_cut_in_many_ways_that_spell_the_same() -> None:
    pairs = made_up(60)
    texts = [f" {text}" for pair in pairs for text in pair]
    vocabulary = tokens.learn(texts, "subwords", 330)
    encoded = in_numbers(vocabulary, pairs, 0.3)
    whole = encoded.sentences(None)
    drawn = [encoded.sentences(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    same = [
        all(np.array_equal(a, b) for one, two in zip(drawn[0], d, strict=True) for a, b in zip(one, two, strict=True))
        for d in drawn
    ]
    assert same == [True, True, False]
    for sides in zip(whole, drawn[0], strict=True):
        for canonical, cut in zip(*sides, strict=True):
            assert vocabulary.decode(cut) == vocabulary.decode(canonical) and len(cut) >= len(canonical)
    words = sorted({word for text in texts for word in words_in(vocabulary, text)})
    never = cut_words(vocabulary, words, 0.0, np.random.default_rng(0))
    text = texts[0]
    sentence = np.array([never.words[word] for word in words_in(vocabulary, text)])
    (cut,) = never.draw([sentence], np.random.default_rng(0))
    np.testing.assert_array_equal(cut, vocabulary.encode(text))


def test_attention_between_words_and_what_is_copied() -> None:
    line = Line(np.arange(4), (" Zor", "bl", " 1", "7"))
    assert line.words() == [[0, 1], [2, 3]]
    attention = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.1, 0.0], [0.0, 0.1, 0.1, 0.8]])
    masses = between_words(attention, [[0], [1, 2]], line.words())
    np.testing.assert_allclose(masses, [[0.3, 0.7], [1.0, 1.0]])
    masses = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]])
    known = frozenset({"sees", "the"})
    read = ["Zorblax", "sees", "17,"]
    assert copied(["Der", "sieht", "„19“."], read, masses, known) == "Zorblax sieht „17“."
    assert copied(["Der", "sieht", "17."], read, masses, known) == "Zorblax sieht 17."
    assert copied(["Der", "sieht"], read, masses, known) == "Der sieht"
