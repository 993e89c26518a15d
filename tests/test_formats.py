"""Every reader of the corpus stage on a file as its format is published, and on broken ones: what was said.

`python -m pytest tests/test_formats.py -k said` runs the table; `python -m tests.test_formats` prints it as Markdown.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from tests import hub
from tests.tree import python
from trainer.base.recipe import Source
from trainer.corpus.lines import CorpusError
from trainer.corpus.pairs import clean
from trainer.corpus.rows import read

ROOT = Path(__file__).resolve().parent.parent
CAT, DOG = "\u4e00\u53ea\u732b", "\u4e00\u53ea\u72d7"  # a cat, a dog
ROWS = [(CAT, "a cat"), (DOG, "a dog")]
ZH, EN = "".join(f"{zh}\n" for zh, _ in ROWS), "".join(f"{en}\n" for _, en in ROWS)
TSV = "zh\ten\n" + "".join(f"{zh}\t{en}\n" for zh, en in ROWS)
CSV = "id,en,zh\n" + "".join(f'{at},"{en}",{zh}\n' for at, (zh, en) in enumerate(ROWS))
JSONL = "".join(json.dumps({"zh": zh, "en": en}, ensure_ascii=False) + "\n" for zh, en in ROWS)
UNIT = '<tu>\n<tuv xml:lang="en"><seg>{en}</seg></tuv>\n<tuv xml:lang="{code}"><seg>{zh}</seg></tuv>\n</tu>\n'
TMX_HEAD = (
    '<?xml version="1.0" encoding="UTF-8" ?>\n<tmx version="1.4">\n<header creationdate="Mon Jan  4 2021" srclang="en" '
    'adminlang="en" o-tmf="unknown" segtype="sentence" creationtool="Uplug" datatype="PlainText" />\n<body>\n'
)
TMX = TMX_HEAD + "".join(UNIT.format(zh=zh, en=en, code="zh") for zh, en in ROWS) + "</body>\n</tmx>\n"
DOCTYPE = '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'
BOMB = '<!DOCTYPE tmx [<!ENTITY a "cat"><!ENTITY b "&a;&a;&a;&a;">]>\n'
OUTSIDE = '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n'


def photo(title: str, description: str, camera: str = "Canon+EOS+5D") -> str:
    """A line of YFCC100M: row, id, hash, user, name, two dates, camera, title, description, tags ..."""
    fields = ["0", "6185218911", "4e2f7a26a1dfbf165a7e30bdabf7e72a", "39019111@N00", "someone", "2012-02-16 09:56:37.0"]
    fields += ["1331840483", camera, title, description, "cat,dog", "", "-81.8", "24.5", "12", "http://f", "http://g"]
    return "\t".join([*fields, "Attribution", "http://l", "72", "6", "8", "9", "jpg", "0"]) + "\n"


YFCC = (
    photo("IMG_0520", "A+cat+sleeps+on+a+red+sofa.%0ATaken+at+home.+%23cat+%23sofa")
    + photo(
        "Tom+%26amp%3B+Jerry%2C+caf%C3%A9+cats", "%3Ca+href%3D%22http%3A%2F%2Fx%22%3EA+%23dog%3C%2Fa%3E+in+the+rain"
    )
    + photo("Canon+EOS+5D", "%23sunset+%23beach")
    + photo("DSC01234.JPG", "Sony DSC-W55")
)


def put(path: Path, content: str | bytes, compress: bool = False) -> Path:
    """Write bytes, or text as UTF-8 without touching its line ends."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def packed(members: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(columns: dict[str, list]) -> bytes:
    """A Parquet file."""
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict(columns).to_parquet(f"{folder}/a.parquet")
        return Path(f"{folder}/a.parquet").read_bytes()


PARQUET = parquet({"id": [1, 2], "zh": [zh for zh, _ in ROWS], "en": [en for _, en in ROWS]})
STORED = packed({"a.en": EN, "a.zh": ZH}, zipfile.ZIP_STORED)
MOSES_ZIP = packed({"README": "OPUS", "LICENSE": "CC", "Tatoeba.en-zh.en": EN, "Tatoeba.en-zh.zh": ZH})


def a_file(name: str, content: str | bytes, compress: bool = False) -> Callable[[Path], Source]:
    return lambda folder: Source(str(put(folder / name, content, compress)))


def two_files(
    zh: str | bytes, en: str | bytes, given: str = "T.en-zh.zh", ending: str = ""
) -> Callable[[Path], Source]:
    def make(folder: Path) -> Source:
        put(folder / f"T.en-zh.zh{ending}", zh, bool(ending))
        put(folder / f"T.en-zh.en{ending}", en, bool(ending))
        return Source(str(folder / given))

    return make


def a_folder(files: dict[str, str | bytes]) -> Callable[[Path], Source]:
    def make(folder: Path) -> Source:
        for name, content in files.items():
            (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            put(folder / "d" / name, content)
        (folder / "d").mkdir(exist_ok=True)
        return Source(str(folder / "d"))

    return make


def saved(columns: dict[str, list], split: str = "", wanted: str = "train", **source: str) -> Callable[[Path], Source]:
    def make(folder: Path) -> Source:
        data = Dataset.from_dict(columns)
        (DatasetDict({split: data}) if split else data).save_to_disk(str(folder / "saved"))
        return Source(str(folder / "saved"), split=wanted, **source)  # type: ignore[arg-type]

    return make


def damaged(make: Callable[[Path], Source], name: str, content: bytes) -> Callable[[Path], Source]:
    def broken(folder: Path) -> Source:
        source = make(folder)
        for file in folder.rglob(name):
            file.write_bytes(content)
        return source

    return broken


TRANSLATION = {"translation": [{"zh": zh, "en": en} for zh, en in ROWS]}
COLUMNS = {"zh": [zh for zh, _ in ROWS], "en": [en for _, en in ROWS]}
NESTED = dict(zh="translation.zh", en="translation.en")
WHOLE: dict[str, Callable[[Path], Source]] = {
    "TSV": a_file("a.tsv", TSV),
    "TSV, CRLF and byte order mark": a_file("a.tsv", ("\ufeff" + TSV).replace("\n", "\r\n")),
    "TSV, other columns": lambda d: Source(str(put(d / "a.tsv", TSV.replace("zh\ten", "cn\tcap"))), zh="cn", en="cap"),
    "TSV, gzipped": a_file("a.tsv.gz", TSV, True),
    "CSV": a_file("a.csv", CSV),
    "CSV, CRLF and byte order mark": a_file("a.csv", ("\ufeff" + CSV).replace("\n", "\r\n")),
    "CSV, a quoted line end": a_file("a.csv", CSV.replace('"a cat"', '"a\ncat"')),
    "CSV, gzipped": a_file("a.csv.gz", CSV, True),
    "JSON lines": a_file("a.jsonl", JSONL),
    "JSON lines, byte order mark": a_file("a.jsonl", "\ufeff" + JSONL),
    "JSON lines, records": lambda d: Source(
        str(put(d / "a.jsonl", "".join(json.dumps({"translation": t}) + "\n" for t in TRANSLATION["translation"]))),
        zh=NESTED["zh"],
        en=NESTED["en"],
    ),
    "Parquet": a_file("a.parquet", PARQUET),
    "folder": a_folder({"a.tsv": TSV.rsplit(DOG)[0], "deep/b.jsonl": JSONL.split("\n")[1], "README.md": "no corpus"}),
    "saved dataset": saved(COLUMNS),
    "saved dataset, split and records": saved(TRANSLATION, "validation", "validation", **NESTED),
    "Moses, Chinese file given": two_files(ZH, EN),
    "Moses, English file given": two_files(ZH, EN, "T.en-zh.en"),
    "Moses, common name given": two_files(ZH, EN, "T.en-zh"),
    "Moses, gzipped": two_files(ZH, EN, "T.en-zh.zh.gz", ".gz"),
    "Moses, zip": a_file("en-zh.txt.zip", MOSES_ZIP),
    "Moses, zip of a script's corpus": a_file("a.zip", packed({"x/S.en-zh_CN.en": EN, "x/S.en-zh_CN.zh_CN": ZH})),
    "Moses in a folder": a_folder({"T.en-zh.en": EN, "T.en-zh.zh": ZH}),
    "TMX": a_file("en-zh.tmx", TMX),
    "TMX, gzipped": a_file("en-zh.tmx.gz", TMX, True),
    "TMX, doctype and other codes": a_file(
        "a.tmx", TMX.replace("<tmx", DOCTYPE + "<tmx", 1).replace('"en">', '"EN-US">').replace('"zh"', '"zh-Hans"')
    ),
    "TMX, markup inside": a_file("a.tmx", TMX.replace(">a cat<", "><ph>\\b</ph>a <it>x</it>cat<")),
}
SPOILT = gzip.compress(TSV.encode())[:10] + b"\xff" * 40
BROKEN: list[tuple[str, str, Callable[[Path], Source], str]] = [
    ("TSV", "empty", a_file("a.tsv", ""), "it is empty"),
    ("TSV", "no such file", lambda d: Source(str(d / "a.tsv")), "there is no such corpus file"),
    ("TSV", "header alone", a_file("a.tsv", "zh\ten\n"), "0 rows"),
    ("TSV", "missing column", a_file("a.tsv", TSV.replace("zh\ten", "zh\tfr")), "it must name the columns zh and en"),
    ("TSV", "no header", a_file("a.tsv", TSV.partition("\n")[2]), "it must name the columns zh and en"),
    ("TSV", "commas", a_file("a.tsv", TSV.replace("\t", ",")), "it must name the columns zh and en"),
    ("TSV", "short line", a_file("a.tsv", TSV + CAT + "\n"), "2 rows, {'missing column': 1}"),
    ("TSV", "UTF-16", a_file("a.tsv", TSV.encode("utf-16")), "it is UTF-16; save it as UTF-8"),
    ("TSV", "a line of GBK", a_file("a.tsv", TSV.encode() + f"{DOG}\tx\n".encode("gbk")), "2 rows, {'not UTF-8': 1}"),
    ("TSV", "NUL", a_file("a.tsv", TSV + f"{DOG}\0\tb\n"), "2 rows, {'control characters': 1}"),
    ("TSV", "truncated gzip", a_file("a.tsv.gz", gzip.compress(TSV.encode())[:-12]), "damaged or cut short"),
    ("TSV", "a gzip's bytes changed", a_file("a.tsv.gz", SPOILT), "damaged or cut short (Error -3"),
    ("TSV", "not gzip", a_file("a.tsv.gz", TSV), "damaged or cut short"),
    ("TSV", "another suffix", a_file("a.xlsx", TSV), "a corpus is one of .tsv"),
    ("CSV", "empty", a_file("a.csv", ""), "it is empty"),
    ("CSV", "header alone", a_file("a.csv", "zh,en\n"), "0 rows"),
    ("CSV", "missing column", a_file("a.csv", "id,zh\n1,x\n"), "it must name the columns zh and en"),
    ("CSV", "tabs", a_file("a.csv", TSV), "it must name the columns zh and en"),
    (
        "CSV",
        "quote never closed",
        a_file("a.csv", CSV.replace('"a cat"', '"a cat')),
        "the quote in line 2 is never closed",
    ),
    ("CSV", "text behind a quote", a_file("a.csv", CSV.replace('"a cat"', '"a" cat')), "1 rows, {'wrong quoting': 1}"),
    ("CSV", "short line", a_file("a.csv", CSV + "3\n"), "2 rows, {'missing column': 1}"),
    ("CSV", "UTF-16", a_file("a.csv", CSV.encode("utf-16")), "it is UTF-16; save it as UTF-8"),
    ("CSV", "a line of GBK", a_file("a.csv", CSV.encode() + f"3,x,{DOG}\n".encode("gbk")), "2 rows, {'not UTF-8': 1}"),
    ("CSV", "NUL", a_file("a.csv", CSV + f"3,b\0,{DOG}\n"), "2 rows, {'control characters': 1}"),
    ("CSV", "truncated gzip", a_file("a.csv.gz", gzip.compress(CSV.encode())[:-12]), "damaged or cut short"),
    ("JSON lines", "empty", a_file("a.jsonl", ""), "it is empty"),
    ("JSON lines", "cut line", a_file("a.jsonl", JSONL[:-9]), "1 rows, {'not a JSON object with zh and en': 1}"),
    (
        "JSON lines",
        "one array",
        a_file("a.jsonl", json.dumps([{"zh": CAT, "en": "a cat"}])),
        "0 rows, {'not a JSON object",
    ),
    ("JSON lines", "missing column", a_file("a.jsonl", JSONL + '{"zh": "x"}\n'), "2 rows, {'missing column': 1}"),
    ("JSON lines", "numbers", a_file("a.jsonl", JSONL + '{"zh": 1, "en": 2}\n'), "2 rows, {'not text': 1}"),
    ("JSON lines", "null", a_file("a.jsonl", JSONL + '{"zh": null, "en": "x"}\n'), "2 rows, {'empty': 1}"),
    ("JSON lines", "blank line", a_file("a.jsonl", JSONL + "\n"), "2 rows, {'not a JSON object with zh and en': 1}"),
    ("JSON lines", "UTF-16", a_file("a.jsonl", JSONL.encode("utf-16")), "it is UTF-16; save it as UTF-8"),
    (
        "JSON lines",
        "a line of GBK",
        a_file("a.jsonl", JSONL.encode() + JSONL.encode("gbk")),
        "2 rows, {'no Chinese': 1, 'not UTF-8': 1}",
    ),
    ("JSON lines", "NUL", a_file("a.jsonl", JSONL + '{"zh": "x", "en": "\0"}\n'), "2 rows, {'control characters': 1}"),
    ("JSON lines", "truncated gzip", a_file("a.jsonl.gz", gzip.compress(JSONL.encode())[:-12]), "damaged or cut short"),
    ("Parquet", "empty", a_file("a.parquet", ""), "cannot be read as Parquet"),
    ("Parquet", "text", a_file("a.parquet", TSV), "cannot be read as Parquet"),
    ("Parquet", "truncated", a_file("a.parquet", PARQUET[:-40]), "cannot be read as Parquet"),
    ("Parquet", "without its start", a_file("a.parquet", PARQUET[40:]), "cannot be read as Parquet"),
    ("Parquet", "missing column", a_file("a.parquet", parquet({"zh": [CAT]})), "it must name the columns zh and en"),
    ("Parquet", "numbers", a_file("a.parquet", parquet({"zh": [1], "en": [2]})), "0 rows, {'not text': 1}"),
    ("Parquet", "nulls", a_file("a.parquet", parquet({"zh": [CAT, None], "en": [None, "x"]})), "0 rows, {'empty': 2}"),
    ("Parquet", "no rows", a_file("a.parquet", parquet({"zh": [], "en": []})), "corresponds to no data"),
    ("Parquet", "lists", a_file("a.parquet", parquet({"zh": [[CAT]], "en": [["x"]]})), "0 rows, {'not text': 1}"),
    ("Parquet", "records", a_file("a.parquet", parquet(TRANSLATION)), "it must name the columns zh and en"),
    ("Parquet", "NUL", a_file("a.parquet", parquet({"zh": [CAT], "en": ["a\0"]})), "0 rows, {'control characters': 1}"),
    ("folder", "without files", a_folder({}), "there is no corpus file in that folder"),
    ("folder", "of other files", a_folder({"README.md": "x"}), "there is no corpus file in that folder"),
    ("folder", "one file is empty", a_folder({"a.tsv": TSV, "b.tsv": ""}), "b.tsv: it is empty"),
    ("folder", "one file lacks a column", a_folder({"a.tsv": TSV, "b.csv": "x,en\n"}), "b.csv: its first line is"),
    ("folder", "half a Moses pair", a_folder({"T.en-zh.zh": ZH}), "one file ending in .en; here are none"),
    (
        "folder",
        "half of a Moses pair in another folder",
        a_folder({"T.en-zh.zh": ZH, "x/T.en-zh.en": EN}),
        "one file ending in .en; here are none",
    ),
    (
        "folder",
        "a damaged file deep inside",
        a_folder({"a.tsv": TSV, "b/c/d.parquet": PARQUET[:-40]}),
        "d/b/c/d.parquet: cannot be read as Parquet",
    ),
    (
        "folder",
        "one file is UTF-16",
        a_folder({"a.tsv": TSV, "b.tsv": TSV.encode("utf-16")}),
        "b.tsv: it is UTF-16; save it as UTF-8",
    ),
    (
        "folder",
        "one file is no archive",
        a_folder({"a.tsv": TSV, "T.zip": "no archive"}),
        "T.zip: the archive is damaged or cut short",
    ),
    ("folder", "missing", lambda d: Source(str(d / "no")), "there is no such corpus file, nor a folder"),
    ("saved dataset", "another split", saved(COLUMNS, "test"), "it has the splits ['test'], not 'train'"),
    ("saved dataset", "missing column", saved({"zh": [CAT]}), "it must name the columns zh and en"),
    ("saved dataset", "records", saved(TRANSLATION), "it must name the columns zh and en"),
    ("saved dataset", "numbers", saved({"zh": [1], "en": [2]}), "0 rows, {'not text': 1}"),
    ("saved dataset", "nulls", saved({"zh": [None, CAT], "en": ["a", None]}), "0 rows, {'empty': 2}"),
    ("saved dataset", "no rows", saved({"zh": [], "en": []}), "cannot be read as a saved dataset"),
    ("saved dataset", "empty shard", damaged(saved(COLUMNS), "*.arrow", b""), "cannot be read as a saved dataset"),
    (
        "saved dataset",
        "foreign shard",
        damaged(saved(COLUMNS), "*.arrow", b"x" * 99),
        "cannot be read as a saved dataset",
    ),
    ("saved dataset", "broken state", damaged(saved(COLUMNS), "state.json", b"{"), "cannot be read as a saved dataset"),
    ("saved dataset", "broken info", damaged(saved(COLUMNS), "dataset_info.json", b"["), "cannot be read as a saved"),
    ("Moses", "line counts", two_files(ZH, EN + "more\n"), "not line-aligned, 2 Chinese and 3 English lines"),
    ("Moses", "one side empty", two_files(ZH, ""), "T.en-zh.en: it is empty"),
    ("Moses", "other side missing", a_file("T.en-zh.zh", ZH), "one file ending in .en; here are none"),
    ("Moses", "English side alone", a_file("T.en-zh.en", EN), "one file ending in .zh; here are none"),
    ("Moses", "a line of GBK", two_files(ZH.encode() + DOG.encode("gbk"), EN + "x"), "2 rows, {'not UTF-8': 1}"),
    ("Moses", "UTF-16", two_files(ZH.encode("utf-16"), EN), "it is UTF-16; save it as UTF-8"),
    ("Moses", "NUL", two_files(ZH + CAT, EN + "a\0"), "2 rows, {'control characters': 1}"),
    ("Moses", "blank line on one side", two_files(ZH + CAT, EN + "\n"), "2 rows, {'empty': 1}"),
    ("Moses", "sides swapped", two_files(EN, ZH), "0 rows, {'no Chinese': 2}"),
    ("Moses", "truncated zip", a_file("a.zip", MOSES_ZIP[:-30]), "damaged or cut short"),
    (
        "Moses",
        "a zip's bytes changed",
        a_file("a.zip", STORED.replace(b"a dog", b"a fox", 1)),
        "(Bad CRC-32 for file 'a.en')",
    ),
    ("Moses", "not a zip", a_file("a.zip", TSV), "damaged or cut short"),
    ("Moses", "zip without the pair", a_file("a.zip", packed({"a.tsv": TSV})), "one file ending in .zh; here are none"),
    ("Moses", "empty zip", a_file("a.zip", packed({})), "one file ending in .zh; here are none in []"),
    ("Moses", "zip of two pairs", a_file("a.zip", packed({"a.zh": ZH, "b.zh": ZH, "a.en": EN})), "['a.zh', 'b.zh']"),
    ("TMX", "empty", a_file("a.tmx", ""), "not well-formed XML, after 0 translation units"),
    ("TMX", "cut short", a_file("a.tmx", TMX[:-40]), "not well-formed XML, after 1 translation units"),
    ("TMX", "tag not closed", a_file("a.tmx", TMX.replace("</seg>", "", 1)), "not well-formed XML, after 0"),
    ("TMX", "bare ampersand", a_file("a.tmx", TMX.replace("a dog", "a & dog")), "not well-formed XML, after 1"),
    ("TMX", "another root", a_file("a.tmx", "<html><body/></html>"), "its root element is <html>, not <tmx>"),
    ("TMX", "no units", a_file("a.tmx", TMX_HEAD + "</body></tmx>"), "it has no translation unit"),
    ("TMX", "missing language", a_file("a.tmx", TMX.replace('"zh"', '"fr"', 1)), "1 rows, {'missing language': 1}"),
    (
        "TMX",
        "no language given",
        a_file("a.tmx", TMX.replace(' xml:lang="en"', "", 1)),
        "1 rows, {'missing language': 1}",
    ),
    ("TMX", "no segment", a_file("a.tmx", TMX.replace("<seg>a cat</seg>", "")), "1 rows, {'missing language': 1}"),
    ("TMX", "bytes of GBK", a_file("a.tmx", TMX.encode("gbk")), "not well-formed XML, after 1"),
    ("TMX", "NUL", a_file("a.tmx", TMX.replace("a dog", "a\0")), "not well-formed XML, after 1"),
    (
        "TMX",
        "growing entities",
        a_file("a.tmx", TMX.replace("<tmx", BOMB + "<tmx", 1)),
        "its DOCTYPE declares entities",
    ),
    (
        "TMX",
        "a file's entity",
        a_file("a.tmx", TMX.replace("<tmx", OUTSIDE + "<tmx", 1)),
        "its DOCTYPE declares entities",
    ),
    ("TMX", "truncated gzip", a_file("a.tmx.gz", gzip.compress(TMX.encode())[:-12]), "damaged or cut short"),
]


def english(make: Callable[[Path], Source], **columns: str) -> Callable[[Path], Source]:
    """The same file as captions without a translation."""

    def alone(folder: Path) -> Source:
        source = make(folder)
        source.zh = ""
        source.en = columns.get("en", source.en)
        return source

    return alone


def photos(content: str | bytes, name: str = "yfcc.tsv") -> Callable[[Path], Source]:
    return english(a_file(name, content))


GOOD = photo("A+cat", "")
BROKEN += [
    ("YFCC", "empty", photos(""), "it is empty"),
    ("YFCC", "short line", photos(GOOD + "1\t2\n"), "1 rows, {'missing column': 1}"),
    ("YFCC", "cut first line", photos(GOOD[:80] + "\n"), "it must name the columns en"),
    ("YFCC", "file names", photos(photo("IMG_0520", "") + photo("dsc01234.jpg", "")), "0 rows, {'file name': 2}"),
    ("YFCC", "camera names", photos(photo("Canon+EOS+5D", "Nikon+D90")), "0 rows, {'camera name': 2}"),
    ("YFCC", "hashtags", photos(photo("%23a+%23b", "")), "0 rows, {'only hashtags or markup': 1}"),
    ("YFCC", "no text", photos(photo("", "")), "0 rows, {'empty': 1}"),
    ("YFCC", "bytes of Latin-1 in it", photos(photo("caf%E9", "")), "0 rows, {'wrong encoding': 1}"),
    ("YFCC", "bad escapes", photos(photo("100%+a%2cat", "")), "1 rows"),
    ("YFCC", "Chinese titles", photos(photo("%E7%8C%AB%E7%8C%AB", "")), "0 rows, {'no English': 1}"),
    ("YFCC", "links", photos(photo("", "See+http%3A%2F%2Fx.org")), "0 rows, {'boilerplate': 1}"),
    ("YFCC", "NUL", photos(photo("a%00cat", "")), "0 rows, {'control characters': 1}"),
    ("YFCC", "a line of GBK", photos(GOOD.encode() + photo(DOG, "").encode("gbk")), "1 rows, {'not UTF-8': 1}"),
    ("YFCC", "UTF-16", photos(GOOD.encode("utf-16")), "it is UTF-16; save it as UTF-8"),
]


def said(source: Source, folder: Path) -> str:
    """What a source gives: so many clean rows and rejections, or the error, without the folder's name."""
    try:
        rows = list(read(source))
    except CorpusError as error:
        return str(error).replace(str(folder), "").lstrip("/\\")
    cleaned = clean(rows, len if source.zh else None, len, 99)
    return f"{len(cleaned.pairs)} rows" + (f", {cleaned.counts()}" if cleaned.rejects else "")


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_gives_its_pairs(name: str, tmp_path: Path) -> None:
    rows = list(read(WHOLE[name](tmp_path)))
    cleaned = clean(rows, len, len, 99)
    assert [(pair.zh, pair.en) for pair in cleaned.pairs] == ROWS
    assert not cleaned.rejects


@pytest.mark.parametrize(("kind", "what", "make", "says"), BROKEN, ids=[f"{row[0]}, {row[1]}" for row in BROKEN])
def test_what_is_said_of_a_broken_file(
    kind: str, what: str, make: Callable[[Path], Source], says: str, tmp_path: Path
) -> None:
    answer = said(make(tmp_path), tmp_path)
    assert says in answer
    assert "\n" not in answer


def test_a_tmx_takes_no_more_memory_for_more_units(tmp_path: Path) -> None:
    body = "".join(UNIT.format(zh=f"{CAT}{n}", en=f"a cat {n}", code="zh") for n in range(20_000))
    path = put(tmp_path / "large.tmx", TMX_HEAD + body + "</body>\n</tmx>\n")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(str(path))) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_photographs_give_their_captions_alone(tmp_path: Path) -> None:
    source = photos(YFCC)(tmp_path)
    cleaned = clean(read(source), None, len, 99)
    assert [pair.en for pair in cleaned.pairs] == [
        "A cat sleeps on a red sofa.",
        "Tom & Jerry, caf\u00e9 cats",
        "A dog in the rain",
    ]
    assert cleaned.counts() == {"camera name": 2, "file name": 2, "only hashtags or markup": 1}
    fewer = "".join("\t".join(line.split("\t")[1:2] + line.split("\t")[3:]) + "\n" for line in YFCC.splitlines())
    put(tmp_path / "yfcc.tsv", fewer)  # the 23 columns of the first publication
    assert clean(read(source), None, len, 99).pairs == cleaned.pairs


def test_a_tables_titles_are_decoded_and_plain_text_is_read_as_it_is(tmp_path: Path) -> None:
    table = english(a_file("a.csv", "title,other\nA+cat+%26+dog,x\nA red+blue cat,y\n"), en="title")
    assert [row.en for row in read(table(tmp_path))] == ["A cat & dog", "A red+blue cat"]
    text = english(a_file("a.txt", "A cat\nA 100%25 dog\n"))
    assert [row.en for row in read(text(tmp_path))] == ["A cat", "A 100%25 dog"]


def test_rows_are_numbered_as_a_person_counts_and_named_in_a_folder(tmp_path: Path) -> None:
    rows = list(read(a_folder({"a.tsv": TSV, "b.csv": CSV})(tmp_path)))
    assert [(row.source, row.number) for row in rows] == [("a.tsv", 2), ("a.tsv", 3), ("b.csv", 2), ("b.csv", 3)]


CARD = """---
configs:
- config_name: {config}
  data_files:
  - split: {split}
    path: data.*
---
"""
HUB: dict[str, tuple[dict[str, str | bytes], Source, str]] = {
    "whole": ({"a.jsonl": JSONL}, Source("me/whole"), "2 rows"),
    "records": ({"a.parquet": parquet(TRANSLATION)}, Source("me/records", **NESTED), "2 rows"),  # type: ignore[arg-type]
    "configuration": (
        {"README.md": CARD.format(config="en-zh", split="test"), "data.csv": CSV},
        Source("me/configuration", config="en-zh", split="test"),
        "2 rows",
    ),
    "another configuration": (
        {"README.md": CARD.format(config="en-zh", split="train"), "data.csv": CSV},
        Source("me/another-configuration", config="fr"),
        "BuilderConfig 'fr' not found. Available: ['en-zh']",
    ),
    "another split": ({"a.jsonl": JSONL}, Source("me/another-split", split="test"), 'Unknown split "test"'),
    "no such dataset": ({}, Source("nobody/nothing"), "neither a local file or folder nor to be had from the hub"),
    "missing column": ({"a.csv": "zh,fr\nx,y\n"}, Source("me/missing-column"), "must name the columns zh and en"),
    "no files": ({"README.md": "nothing"}, Source("me/no-files"), "nor to be had from the hub"),
    "empty file": ({"a.csv": ""}, Source("me/empty-file"), "nor to be had from the hub"),
    "broken JSON": ({"a.jsonl": JSONL + "{"}, Source("me/broken-JSON"), "nor to be had from the hub"),
    "broken Parquet": ({"a.parquet": PARQUET[:-40]}, Source("me/broken-Parquet"), "nor to be had from the hub"),
    "not UTF-8": ({"a.csv": CSV.encode("gbk")}, Source("me/not-UTF-8"), "nor to be had from the hub"),
    "code of its own": (
        {"code-of-its-own.py": "raise SystemExit('it ran')", "a.jsonl.txt": JSONL},
        Source("me/code-of-its-own"),
        "Dataset scripts are no longer supported",
    ),
    "numbers": ({"a.csv": "zh,en\n1,2\n"}, Source("me/numbers"), "0 rows, {'not text': 1}"),
}


def answer_all(folder: str) -> None:
    """In a process of its own, for HF_ENDPOINT is read at import: FOLDER/answers.json."""
    answers = {name: said(source, Path(folder)) for name, (_, source, _) in HUB.items()}
    (Path(folder) / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def asked_of_the_hub(folder: Path) -> dict[str, str]:
    """What is said of each dataset of HUB."""
    for name, (content, _, _) in HUB.items():
        for path, text in ({"README.md": "# A corpus\n"} | content).items() if content else ():
            file = folder / "hub" / "me" / name.replace(" ", "-") / path
            file.parent.mkdir(parents=True, exist_ok=True)
            put(file, text)
    (folder / "hub").mkdir(exist_ok=True)
    with hub.serve(folder / "hub") as (endpoint, _):
        code = f"from tests.test_formats import answer_all; answer_all({str(folder)!r})"
        done = python("-c", code, cwd=ROOT, **hub.settings(endpoint, folder / "home"))
    assert done.returncode == 0, done.stdout
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def of_the_hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return asked_of_the_hub(tmp_path_factory.mktemp("hub"))


@pytest.mark.parametrize("name", HUB)
def test_what_is_said_of_a_dataset_of_the_hub(name: str, of_the_hub: dict[str, str]) -> None:
    assert HUB[name][2] in of_the_hub[name]
    assert "\n" not in of_the_hub[name]


def table() -> str:
    """The broken files and what was said of each, as Markdown."""
    lines = ["| format | what is broken | what was said |", "|---|---|---|"]
    for kind, what, make, _ in BROKEN:
        with tempfile.TemporaryDirectory() as folder:
            answer = re.sub(r"\s*\(.{60,}\)", "", said(make(Path(folder)), Path(folder))).replace("|", "\\|")
        lines.append(f"| {kind} | {what} | {answer[:160]} |")
    with tempfile.TemporaryDirectory() as folder:
        answers = asked_of_the_hub(Path(folder)).items()
    lines += [f"| hub dataset | {name} | {answer[:160]} |" for name, answer in answers if not answer.endswith(" rows")]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
