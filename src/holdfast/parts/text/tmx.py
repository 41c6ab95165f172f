"""Translation memories: TMX, the exchange format of translators' tools (LISA, TMX 1.4b, 2005)."""

import io
from typing import Final
from xml.etree import ElementTree

from ..errors import DataError, did_you_mean

LANGUAGE: Final = "{http://www.w3.org/XML/1998/namespace}lang"


def read_units(raw: bytes, where: str, source: str | None, target: str | None) -> list[tuple[str, str]]:
    """The units that have both languages. Raises DataError naming the file.

    Args:
        raw: the file's bytes.
        where: its name.
        source: its language; "en" is also "en-GB". None: the header's, else the first unit's first.
        target: the other one. None: the first unit's first other.
    """
    said, units = parsed(raw, where)
    present = list(dict.fromkeys(language for unit in units for language in unit))
    if not present:
        raise DataError(f"{where} has no translation units")
    plain = list(dict.fromkeys(language.split("-")[0] for language in present))  # of whatever country
    if source is None:
        source = said if said in plain else plain[0]
    if target is None:
        target = next((language for language in plain if not is_of(source, language)), None)
    for wanted in (source, target):
        if wanted is None or not any(is_of(language, wanted) for language in present):
            meant = "" if wanted is None else did_you_mean(wanted, present)
            raise DataError(f"{where} has no sentences in {wanted or 'a second language'}{meant}")
    assert target is not None
    pairs = [(spoken(unit, source), spoken(unit, target)) for unit in units]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def parsed(raw: bytes, where: str) -> tuple[str | None, list[dict[str, str]]]:
    """The header's source language without its country, and of every unit the text by language.

    The parser neither fetches what a document names nor lets its entities grow without bounds (expat 2.4 and later).
    """
    said: str | None = None
    units: list[dict[str, str]] = []
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(raw)):
            name = element.tag.rsplit("}", 1)[-1]
            if name == "header":
                said = element.get("srclang")
            elif name == "tu":
                units.append({})
                for variant in element:
                    language, segment = variant.get(LANGUAGE) or variant.get("lang"), variant.find("{*}seg")
                    if language and segment is not None:
                        units[-1].setdefault(language.lower(), " ".join("".join(segment.itertext()).split()))
                element.clear()
    except ElementTree.ParseError as error:
        raise DataError(f"{where} is not TMX: {error}") from None
    return (None if said is None else said.lower().split("-")[0]), units


def is_of(language: str, wanted: str) -> bool:
    """Whether en-gb is en."""
    language, wanted = language.lower(), wanted.lower()
    return language == wanted or language.split("-")[0] == wanted


def spoken(unit: dict[str, str], wanted: str) -> str | None:
    return next((text for language, text in unit.items() if is_of(language, wanted)), None)
