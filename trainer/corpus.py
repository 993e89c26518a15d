"""From rows of pairs to clean, deduplicated pairs, with every rejected row written down."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zhclip.prompt import normalise

from .recipe import Recipe, SettingsError, guard, require, write_text
from .rows import CorpusError, Row, read
from .student import load_tokens
from .teacher import caption_length, load_tokenizer

HEADER = "zh\ten\n"


@dataclass(frozen=True)
class Pair:
    """A clean pair: normalised Chinese, English as its teacher will see it."""

    zh: str
    en: str


@dataclass(frozen=True)
class Cleaned:
    """Clean pairs in file order, and the rejected rows with their reasons."""

    pairs: list[Pair]
    rejects: list[tuple[Row, str]]

    def counts(self) -> dict[str, int]:
        """Rejected rows by reason."""
        return dict(sorted(Counter(reason for _, reason in self.rejects).items()))


def clean(
    rows: Iterable[Row],
    zh_length: Callable[[str], int],
    en_length: Callable[[str], int],
    window: int,
    taken: Iterable[Pair] = (),
    limit: int | None = None,
) -> Cleaned:
    """Keep the rows that can be trained on. `taken` are pairs of another split that must not occur here again.

    The lengths count positions, start and end included. Reasons are fixed words, for counting.
    """
    seen_zh = {pair.zh for pair in taken}
    seen_en = {key(pair.en) for pair in taken}
    held = (frozenset(seen_zh), frozenset(seen_en))
    pairs: list[Pair] = []
    rejects: list[tuple[Row, str]] = []
    for row in rows:
        if limit is not None and len(pairs) >= limit:
            break
        zh, en = normalise(row.zh), " ".join(row.en.split())
        reason = row.fault or _fault(zh, en)
        if not reason and (zh in held[0] or key(en) in held[1]):
            reason = "also in dev"
        if not reason and (zh in seen_zh or key(en) in seen_en):
            reason = "duplicate"
        if not reason:
            reason = _overlong(zh, en, zh_length, en_length, window)
        if reason:
            rejects.append((row, reason))
            continue
        seen_zh.add(zh)
        seen_en.add(key(en))
        pairs.append(Pair(zh, en))
    return Cleaned(pairs, rejects)


def key(en: str) -> str:
    """What makes two English captions the same: their normalised, lower-cased text."""
    return normalise(en).lower()


def has_chinese(text: str) -> bool:
    """Whether any character is a Han ideograph."""
    return any(unicodedata.name(c, "").startswith("CJK ") for c in text)


def _fault(zh: str, en: str) -> str:
    if not zh or not en:
        return "empty"
    if "\ufffd" in zh or "\ufffd" in en:
        return "wrong encoding"
    if zh == normalise(en):
        return "identical sides"
    return "" if has_chinese(zh) else "no Chinese"


def _overlong(zh: str, en: str, zh_length: Callable, en_length: Callable, window: int) -> str:
    if zh_length(zh) > window:
        return "Chinese over the window"
    return "English over the window" if en_length(en) > window else ""


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Pairs as TSV; their texts hold neither tabs nor line ends, for normalising made them spaces."""
    write_text(path, HEADER + "".join(f"{p.zh}\t{p.en}\n" for p in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Pairs that write_pairs wrote. Raises SettingsError when the corpus stage has not run."""
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the corpus stage first (`python -m trainer corpus`)")
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    return [Pair(*line.split("\t")) for line in lines]


def sha256(pairs: list[Pair]) -> str:
    """Digest of the clean pairs in order."""
    return hashlib.sha256("".join(f"{p.zh}\t{p.en}\n" for p in pairs).encode()).hexdigest()


def run(recipe: Recipe) -> None:
    """Stage `corpus`: RUN/corpus/train.tsv, dev.tsv, rejects.tsv, summary.json."""
    folder = recipe.folder / "corpus"
    sources = {
        "train": require(recipe.corpus.train, "corpus.train", "the pairs to train on"),
        "dev": require(recipe.corpus.dev, "corpus.dev", "the pairs to score on"),
    }
    student = require(recipe.student.model, "student.model", "the Chinese encoder")
    teacher = require(recipe.teacher.model, "teacher.model", "the English encoder")
    guard(folder, _settings(recipe, sources))
    if (folder / "summary.json").is_file():
        return
    tokens = load_tokens(student, recipe.window)
    tokenizer = load_tokenizer(teacher, recipe.teacher.tokenizer)
    en_length = partial(caption_length, tokenizer)
    dev = clean(read(sources["dev"]), tokens.length, en_length, recipe.window)
    train = clean(read(sources["train"]), tokens.length, en_length, recipe.window, dev.pairs, recipe.corpus.limit)
    for name, cleaned in (("train", train), ("dev", dev)):
        if len(cleaned.pairs) < 2:
            raise CorpusError(f"{sources[name]}: {len(cleaned.pairs)} usable pairs; rejected: {cleaned.counts()}")
        write_pairs(folder / f"{name}.tsv", cleaned.pairs)
    write_text(folder / "rejects.tsv", rejects_table({"train": train, "dev": dev}))
    summary = {n: {"rows": len(c.pairs), "rejected": c.counts()} for n, c in (("train", train), ("dev", dev))}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    for name, counted in summary.items():
        print(f"corpus: {name} {counted['rows']} pairs, rejected {counted['rejected'] or 'none'}")


def rejects_table(splits: dict[str, Cleaned]) -> str:
    """rejects.tsv: split, row, reason, zh, en."""
    lines = ["split\trow\treason\tzh\ten\n"]
    for split, cleaned in splits.items():
        for row, reason in cleaned.rejects:
            zh, en = (" ".join(text.split()) for text in (row.zh, row.en))
            lines.append(f"{split}\t{row.number}\t{reason}\t{zh}\t{en}\n")
    return "".join(lines)


def _settings(recipe: Recipe, sources: dict[str, str]) -> dict:
    for path in sources.values():
        if not Path(path).is_file():
            raise CorpusError(f"{path}: there is no such corpus file")
    digests = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in sources.items()}
    return {
        "window": recipe.window,
        "limit": recipe.corpus.limit,
        "student": recipe.student.model,
        "teacher": recipe.teacher.model,
        **{f"{name} sha256": digest for name, digest in digests.items()},
    }
