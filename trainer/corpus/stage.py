"""From rows of pairs to clean, deduplicated, split pairs, with every rejected row written down."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from zhclip.tokens import PromptTokenizer

from ..base import CorpusSettings, DamagedError, Recipe, SettingsError, Source, guard, require, sources, write_text
from ..encoders import caption_length, load_tokenizer, load_tokens
from . import starter
from .bitexts import moses_language
from .compose import compose
from .lines import CorpusError, Row
from .pairs import Cleaned, Length, Pair, clean, clean_english, share
from .rows import files, is_hub, is_starter, read
from .summary import page

__all__ = ["Cleaned", "Pair", "clean", "read_pairs", "rejects_table", "run", "sha256", "share", "write_pairs"]

HEADER = "zh\ten\n"
SAMPLE = 20_000  # pairs at most whose tokens are looked up for the share of unknown ones


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Pairs as TSV; their texts hold neither tabs nor line ends, for normalising made them spaces."""
    write_text(path, HEADER + "".join(f"{p.zh}\t{p.en}\n" for p in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Pairs that write_pairs wrote. Raises SettingsError when the corpus stage has not run."""
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the corpus stage first (`python -m trainer corpus`)")
    *lines, end = path.read_text(encoding="utf-8").split("\n")
    if end or not all(line.count("\t") == 1 for line in lines):
        raise DamagedError(f"{path}: damaged; delete {path.parent} and run the corpus stage again")
    return [Pair(*line.split("\t")) for line in lines[1:]]


def scorable(source: str, zh_length: Length, en_length: Length, window: int) -> Cleaned:
    """The clean pairs of a corpus that an encoder is scored on. Raises CorpusError when there are too few."""
    cleaned = clean(read(source), zh_length, en_length, window)
    if len(cleaned.pairs) < 4:
        raise CorpusError(f"{source}: {len(cleaned.pairs)} usable pairs; rejected: {cleaned.counts()}")
    return cleaned


def sha256(pairs: list[Pair]) -> str:
    """Digest of the clean pairs in order."""
    return hashlib.sha256("".join(f"{p.zh}\t{p.en}\n" for p in pairs).encode()).hexdigest()


@dataclass
class Mixture:
    """Rows of several sources. Counts those read and those that a weight left out, by source, as they pass."""

    sources: list[Source]
    starter_rows: int = CorpusSettings.starter_rows
    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[Row]:
        """The rows that the weights take, named by source where there are several."""
        names = Counter(Path(source.path).name for source in self.sources)
        for source in self.sources:
            name = Path(source.path).name
            name = name if names[name] == 1 else source.path
            for row in read(source, self.starter_rows):
                self.read[name] += 1
                if source.weight < 1 and share(row.en, "weight") >= source.weight:
                    self.left_out[name] += 1
                    continue
                yield replace(row, source=row.source or name) if len(self.sources) > 1 else row


def run(recipe: Recipe) -> None:
    """Stage `corpus`: RUN/corpus/train.tsv, dev.tsv, rejects.tsv, summary.html and summary.json; english.tsv where
    English captions are given."""
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if not settings.english or settings.dev:
        require("given" if settings.train else None, "corpus.train", "the pairs to train on")
    for name in ("compose", "dev_share", "min_han", "min_latin", "near"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise SettingsError(f"--corpus.{name} {value:g} is no share; give a number from 0 to 1")
    student = require(recipe.student.model, "student.model", "the Chinese encoder") if settings.train else ""
    teacher = require(recipe.teacher.model, "teacher.model", "the English encoder")
    guard(folder, _settings(recipe))
    if (folder / "summary.json").is_file():
        return
    en_length = partial(caption_length, load_tokenizer(teacher, recipe.teacher.tokenizer))
    splits: dict[str, tuple[Cleaned, Mixture]] = {}
    unknown = None
    if settings.train:
        tokens = load_tokens(student, recipe.window)
        splits = _pairs(settings, tokens, en_length, recipe.window)
        pairs = splits["train"][0].pairs
        ids = [i for pair in pairs[:: len(pairs) // SAMPLE + 1] for i in tokens.ids(pair.zh)]
        unknown = ids.count(tokens.special.unknown) / max(1, len(ids))
    if settings.english:
        mixture = Mixture([replace(source, zh="") for source in sources(settings.english)])
        cleaned = clean_english(mixture.rows(), en_length, recipe.window, settings.min_latin, settings.near)
        splits["english"] = (cleaned, mixture)
    for name, (cleaned, mixture) in splits.items():
        if len(cleaned.pairs) < 2:
            where = " + ".join(source.path for source in mixture.sources)
            raise CorpusError(f"{where}: {len(cleaned.pairs)} usable {name} pairs; rejected: {cleaned.counts()}")
    _write(folder, splits, unknown)


def _pairs(
    settings: CorpusSettings, tokens: PromptTokenizer, en_length: Length, window: int
) -> dict[str, tuple[Cleaned, Mixture]]:
    """The two splits: of two corpora, or of one by the hash of each English caption. The training pairs are followed by
    the prompt-style ones that are made from them."""
    train = Mixture(sources(settings.train), settings.starter_rows)
    held = Mixture(sources(settings.dev or settings.train), settings.starter_rows)
    cleaned = partial(
        clean,
        zh_length=tokens.length,
        en_length=en_length,
        window=window,
        min_han=settings.min_han,
        min_latin=settings.min_latin,
        near=settings.near,
    )

    def rows(mixture: Mixture, dev: bool) -> Iterator[Row]:
        whole = bool(settings.dev)
        return (row for row in mixture.rows() if whole or (share(row.en, "dev") < settings.dev_share) == dev)

    # A dev set with twins would ask the encoder to tell two equal captions apart.
    dev_script = "keep" if settings.script == "both" else settings.script
    dev = cleaned(rows(held, True), script=dev_script)
    kept = cleaned(rows(train, False), taken=dev.pairs, limit=settings.limit, script=settings.script)
    if settings.compose:
        made = compose(kept.pairs, dev.pairs, settings.compose, tokens.ids, en_length, window)
        kept = replace(kept, pairs=kept.pairs + made, composed=len(made))
    return {"train": (kept, train), "dev": (dev, held)}


def _write(folder: Path, splits: dict[str, tuple[Cleaned, Mixture]], unknown: float | None) -> None:
    """All files of the stage; summary.json last, for it says that the others are whole."""
    cleaned = {name: some for name, (some, _) in splits.items()}
    for name, some in cleaned.items():
        if name == "english":
            write_text(folder / "english.tsv", "en\n" + "".join(f"{pair.en}\n" for pair in some.pairs))
        else:
            write_pairs(folder / f"{name}.tsv", some.pairs)
    write_text(folder / "rejects.tsv", rejects_table(cleaned))
    summary: dict[str, dict] = {}
    for name, (some, mixture) in splits.items():
        summary[name] = {"rows": len(some.pairs), "rejected": some.counts(), "read": dict(mixture.read)}
        summary[name] |= {"left_out_by_weight": dict(mixture.left_out)} if mixture.left_out else {}
        summary[name] |= {"simplified_twins": some.twins} if some.twins else {}
        summary[name] |= {"composed": some.composed} if some.composed else {}
    if unknown is not None:
        summary["train"]["unknown_tokens"] = unknown
    texts = {name: [(pair.zh, pair.en) for pair in some.pairs] for name, some in cleaned.items()}
    rejects = {name: [(reason, row.zh, row.en) for row, reason in some.rejects] for name, some in cleaned.items()}
    write_text(folder / "summary.html", page(summary, texts, rejects))
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    for name, counted in summary.items():
        noun = "captions" if name == "english" else "pairs"
        composed = f", {counted['composed']} of them composed" if "composed" in counted else ""
        print(f"corpus: {name} {counted['rows']} {noun}{composed}, rejected {counted['rejected'] or 'none'}")


def rejects_table(splits: dict[str, Cleaned]) -> str:
    """rejects.tsv: split, row (behind its file where there are several), reason, zh, en."""
    lines = ["split\trow\treason\tzh\ten\n"]
    for split, cleaned in splits.items():
        for row, reason in cleaned.rejects:
            zh, en = (" ".join(text.split()) for text in (row.zh, row.en))
            place = f"{row.source}:{row.number}" if row.source else str(row.number)
            lines.append(f"{split}\t{place}\t{reason}\t{zh}\t{en}\n")
    return "".join(lines)


def _settings(recipe: Recipe) -> dict:
    settings = {key: value for key, value in asdict(recipe.corpus).items() if key not in ("train", "dev", "english")}
    if not settings["compose"]:  # a corpus from before there was a composer is still the same
        del settings["compose"]
    given = [*sources(recipe.corpus.train), *sources(recipe.corpus.dev), *sources(recipe.corpus.english)]
    if not any(is_starter(source.path) for source in given):
        del settings["starter_rows"]
    for name in ("train", "dev", "english"):
        for at, source in enumerate(sources(getattr(recipe.corpus, name))):
            settings[f"{name} {at}"] = {k: v for k, v in asdict(source).items() if k != "path"}
            settings[f"{name} {at}"]["sha256"] = source.path if is_hub(source.path) else _digest(source)
    return settings | {"window": recipe.window, "student": recipe.student.model, "teacher": recipe.teacher.model}


def _digest(source: Source) -> str:
    """sha256 over all files of a local source; a Moses pair has two, and the starter its tables."""
    if is_starter(source.path):
        return starter.digest()
    total = hashlib.sha256()
    for file in files(source):
        stem = file.name.removesuffix(".gz").rpartition(".")[0]
        pair = [p for p in file.parent.glob(f"{stem}.*") if moses_language(p.name)] if moses_language(file.name) else []
        inside = sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else []
        for part in sorted({file, *pair, *inside} - ({file} if inside else set())):
            with part.open("rb") as handle:
                while block := handle.read(1 << 20):
                    total.update(block)
    return total.hexdigest()
