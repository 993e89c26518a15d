"""Stage `corpus`: sources are read, cleaned, deduplicated and split, and every rejected row is written down."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from ..base.files import DamagedError, write_text
from ..base.recipe import CorpusSettings, Recipe, SettingsError, Source
from ..base.settings import check_settings, require, sources
from ..models.teacher import caption_length, load_tokenizer
from ..models.tokenizer import load_tokens
from ..progress import Listener, Progress
from .lines import Row
from .pairs import Cleaned, Length, Pair, clean, share
from .readers import read, source_sha256

EVENT_ROWS = 1000  # rows between two progress events
logger = logging.getLogger(__name__)


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Write pairs as TSV; normalised texts hold neither tabs nor line ends."""
    write_text(path, "zh\ten\n" + _tsv(pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote. Raises SettingsError if the corpus stage has not run, DamagedError."""
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the corpus stage first (`python -m trainer corpus`)")
    *lines, end = path.read_text(encoding="utf-8").split("\n")
    if end or not all(line.count("\t") == 1 for line in lines):
        raise DamagedError(f"{path}: damaged; delete {path.parent} and run the corpus stage again")
    return [Pair(*line.split("\t")) for line in lines[1:]]


def sha256(pairs: list[Pair]) -> str:
    """Digest of the clean pairs in order."""
    return hashlib.sha256(_tsv(pairs).encode()).hexdigest()


def _tsv(pairs: list[Pair]) -> str:
    return "".join(f"{pair.zh}\t{pair.en}\n" for pair in pairs)


def scorable(source: str, zh_length: Length, en_length: Length, window: int) -> Cleaned:
    """Clean pairs of a source to score an encoder on. Raises CorpusError if there are fewer than 4."""
    return clean(read(source), zh_length, en_length, window).at_least(4, source)


def weighted_rows(given: list[Source], progress: Listener | None = None, stage: str = "corpus") -> Iterator[Row]:
    """Rows that the sources' weights take; if there are several sources, each row names its own.

    A progress event is sent every EVENT_ROWS rows.
    """
    names = [Path(source.path).name for source in given]
    total = 0
    for source, name in zip(given, names):
        name = name if names.count(name) == 1 else source.path
        for row in read(source):
            total += 1
            if progress and total % EVENT_ROWS == 0:
                progress(Progress(stage, total, 0))
            if source.weight == 1 or share(row.en, "weight") < source.weight:
                yield replace(row, source=row.source or name) if len(given) > 1 else row


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Write RUN/corpus/train.tsv, dev.tsv, rejects.tsv and summary.json; english.tsv if English captions are given.

    Raises CorpusError, ModelError, SettingsError.
    """
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if not settings.english or settings.dev:
        require("given" if settings.train else None, "corpus.train", "the pairs to train on")
    student = require(recipe.student.model, "student.model", "the Chinese encoder") if settings.train else ""
    teacher = require(recipe.teacher.model, "teacher.model", "the English encoder")
    check_settings(folder, _settings(recipe))
    if (folder / "summary.json").is_file():
        return
    en_length = partial(caption_length, load_tokenizer(teacher, recipe.teacher.tokenizer, recipe.endpoint))
    splits: dict[str, Cleaned] = {}
    if settings.train:
        zh_length = load_tokens(student, recipe.window, recipe.endpoint).length
        dev = clean(split_rows(settings, "dev", progress), zh_length, en_length, recipe.window, _unlimited(settings))
        train = split_rows(settings, "train", progress)
        splits["train"] = clean(train, zh_length, en_length, recipe.window, settings, dev.pairs)
        splits["dev"] = dev
    if settings.english:
        given = [replace(source, zh="") for source in sources(settings.english)]
        captions = weighted_rows(given, progress, "corpus english")
        splits["english"] = clean(captions, None, en_length, recipe.window, _unlimited(settings))
    for name, cleaned in splits.items():
        paths = sources(getattr(settings, name) or settings.train)
        cleaned.at_least(2, " + ".join(source.path for source in paths), f"{name} pairs")
    _write(folder, splits)


def split_rows(settings: CorpusSettings, split: str, progress: Listener | None = None) -> Iterator[Row]:
    """Rows of one split, "train" or "dev": of its own sources, or by the hash of the English captions."""
    given = settings.dev if split == "dev" and settings.dev else settings.train
    rows = weighted_rows(sources(given), progress, f"corpus {split}")
    if settings.dev:
        return rows
    return (row for row in rows if (share(row.en, "dev") < settings.dev_share) == (split == "dev"))


def _unlimited(settings: CorpusSettings) -> CorpusSettings:
    """The settings without the limit, which counts training pairs."""
    return replace(settings, limit=None)


def _write(folder: Path, splits: dict[str, Cleaned]) -> None:
    """Write all files; summary.json last, which marks the others as complete."""
    for name, cleaned in splits.items():
        if name == "english":
            write_text(folder / "english.tsv", "en\n" + "".join(f"{pair.en}\n" for pair in cleaned.pairs))
        else:
            write_pairs(folder / f"{name}.tsv", cleaned.pairs)
        logger.info("corpus: %s %d rows, rejected %s", name, len(cleaned.pairs), cleaned.counts() or "none")
    write_text(folder / "rejects.tsv", rejects_table(splits))
    summary = {name: {"rows": len(split.pairs), "rejected": split.counts()} for name, split in splits.items()}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))


def rejects_table(splits: dict[str, Cleaned]) -> str:
    """Content of rejects.tsv: split, row (after its source if there are several), reason, zh, en."""
    lines = ["split\trow\treason\tzh\ten\n"]
    for split, cleaned in splits.items():
        for row in cleaned.rejects:
            zh, en = (" ".join(text.split()) for text in (row.zh, row.en))
            number = f"{row.source}:{row.number}" if row.source else str(row.number)
            lines.append(f"{split}\t{number}\t{row.fault}\t{zh}\t{en}\n")
    return "".join(lines)


def _settings(recipe: Recipe) -> dict:
    """Key of the settings that determine the corpus."""
    settings = asdict(recipe.corpus)
    for name in ("train", "dev", "english"):
        del settings[name]
        for at, source in enumerate(sources(getattr(recipe.corpus, name))):
            settings[f"{name} {at}"] = asdict(source) | {"sha256": source_sha256(source)}
            del settings[f"{name} {at}"]["path"]
    return settings | {"window": recipe.window, "student": recipe.student.model, "teacher": recipe.teacher.model}
