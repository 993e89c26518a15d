"""Bitexts, as OPUS publishes them: Moses pairs (two line-aligned files) and TMX."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from .lines import LONGEST, CorpusError, Row, lines, members, opened

# OPUS writes zh, zh_CN, zh_TW, zh-Hant, and cmn in a few corpora; TMX writes EN-US and the like.
LANGUAGES = {"zh": re.compile(r"(?:zh|cmn)(?:[_-]\w+)?", re.I), "en": re.compile(r"en(?:[_-]\w+)?", re.I)}
TMX = (".tmx", ".tmx.gz")


def language(code: str) -> str:
    """zh or en for a language code of either, else nothing."""
    return next((name for name, pattern in LANGUAGES.items() if pattern.fullmatch(code)), "")


def stem(name: str) -> str:
    """What the names of a Moses pair's files have in common: corpus.en-zh of corpus.en-zh.en.gz."""
    return name.removesuffix(".gz").rpartition(".")[0]


def moses_language(name: str) -> str:
    """zh or en for a file name like corpus.en-zh.en or corpus.en-zh.zh_CN.gz, else nothing."""
    return language(name.removesuffix(".gz").rpartition(".")[2]) if stem(name) else ""


def read_moses(file: Path) -> Iterator[Row]:
    """Pairs of two files beside each other, of which `file` is either.

    Raises CorpusError when the other is not there or has another number of lines.
    """
    beside = sorted(path for path in file.parent.iterdir() if stem(path.name) == stem(file.name))
    yield from _aligned(str(file), {file.name: (file, "")} | {path.name: (path, "") for path in beside}, file.name)


def read_zip(file: Path) -> Iterator[Row]:
    """The Moses pair inside a zip."""
    yield from _aligned(str(file), {name: (file, name) for name in members(file)}, "")


def _aligned(where: str, named: dict[str, tuple[Path, str]], first: str) -> Iterator[Row]:
    sides: dict[str, list[tuple[Path, str]]] = {"zh": [], "en": []}
    for name, place in named.items():
        of = moses_language(name.rpartition("/")[2])
        if of and (not first or of != moses_language(first) or name == first):
            sides[of].append(place)
    for of, places in sides.items():
        if len(places) != 1:
            here = [member or file.name for file, member in places] or "none"
            raise CorpusError(f"{where}: a Moses pair has one file ending in .{of}; here are {here} in {list(named)}")
    zh, en = sides["zh"][0], sides["en"][0]
    counts = {of: sum(1 for _ in lines(*places[0])) for of, places in sides.items()}
    if counts["zh"] != counts["en"]:
        raise CorpusError(
            f"{where}: the two sides are not line-aligned, {counts['zh']} Chinese and {counts['en']} English lines; "
            "download both again"
        )
    for (number, zh_text, zh_fault), (_, en_text, en_fault) in zip(lines(*zh), lines(*en)):
        yield Row(number, zh_text, en_text, zh_fault or en_fault)


def read_tmx(file: Path) -> Iterator[Row]:
    """Translation units of a .tmx or .tmx.gz, numbered from 1. Entities of its own are refused, not expanded.

    Raises CorpusError where the XML breaks off.
    """
    number = 0
    with opened(file) as content:
        content.stretch = LONGEST  # the parser keeps what stands between two units
        events = iterparse(content, events=("start", "end"), forbid_dtd=False)
        try:
            _, root = next(events)
            if root.tag != "tmx":
                raise CorpusError(f"{file}: its root element is <{root.tag}>, not <tmx>")
            body = root
            for event, element in events:
                if event == "start" and element.tag == "body":
                    body = element
                elif event == "end" and element.tag == "tu":
                    number += 1
                    content.stretch = LONGEST
                    yield _unit(number, element)
                    body.clear()  # or the tree of all units grows behind
        except (ParseError, StopIteration, LookupError, ValueError) as error:  # LookupError: an unknown encoding
            if isinstance(error, CorpusError):
                raise
            kind = "its DOCTYPE declares entities" if isinstance(error, DefusedXmlException) else "not well-formed XML"
            raise CorpusError(f"{file}: {kind}, after {number} translation units ({error or 'no element'})") from error
    if not number:
        raise CorpusError(f"{file}: it has no translation unit <tu>")


def _unit(number: int, unit: Any) -> Row:
    texts: dict[str, str] = {}
    for variant in unit.iter("tuv"):
        code = variant.get("{http://www.w3.org/XML/1998/namespace}lang") or variant.get("lang") or ""
        segment = variant.find("seg")
        if segment is not None and language(code):
            # Inline markup (<bpt>, <ph>) stands for formatting, and its text is not the sentence's.
            texts.setdefault(language(code), (segment.text or "") + "".join(e.tail or "" for e in segment))
    fault = "" if len(texts) == 2 else "missing language"
    return Row(number, texts.get("zh", ""), texts.get("en", ""), fault)
