"""Stage `corpus`: sources are read, cleaned, deduplicated and split, and every rejected row is written down."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ..base.files import write_text
from ..base.recipe import CorpusSettings, Recipe, Source
from ..base.settings import check_settings, require, sources
from ..models.teacher import caption_length, teacher_tokenizer
from ..models.tokenizer import student_tokenizer
from ..progress import Listener, Progress
from .lines import Row
from .pairs import Cleaned, Length, Pair, clean, hash_fraction, join, write_pairs
from .readers import read_rows, source_sha256

EVENT_ROWS = 1000  # rows between two progress events
SAMPLE_ROWS = 400
logger = logging.getLogger(__name__)


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Write RUN/corpus/train.tsv, dev.tsv, rejects.tsv, and summary.json, which marks the others as complete.

    Raises CorpusError, ModelError, SettingsError.
    """
    folder, settings, window = recipe.folder / "corpus", recipe.corpus, recipe.window
    student = require(recipe.student.model, "student.model", "the Chinese encoder")
    teacher = require(recipe.teacher.model, "teacher.model", "the English encoder")
    check_settings(folder, _settings(recipe))
    if (folder / "summary.json").is_file():
        return
    en_length = partial(caption_length, teacher_tokenizer(teacher, recipe.teacher.tokenizer))
    zh_length = student_tokenizer(student, window).length
    rows = {split: split_rows(settings, split, progress) for split in ("train", "dev")}
    dev = clean(rows["dev"], zh_length, en_length, window, settings.near)
    train = clean(rows["train"], zh_length, en_length, window, settings.near, settings.limit, dev.pairs)
    splits = {"train": train, "dev": dev}
    for split, cleaned in splits.items():
        names = " + ".join(source.path for source in sources(getattr(settings, split) or settings.train))
        pairs = cleaned.require(2, names, f"{split} pairs")
        share = settings.join if split == "train" else 0.0
        write_pairs(folder / f"{split}.tsv", join(pairs, share, zh_length, en_length, window))
        logger.info("corpus: %s %d rows, rejected %s", split, len(cleaned.pairs), cleaned.counts() or "none")
    write_text(folder / "rejects.tsv", rejects_table(splits))
    summary = {split: {"rows": len(cleaned.pairs), "rejected": cleaned.counts()} for split, cleaned in splits.items()}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))


def split_rows(settings: CorpusSettings, split: str, progress: Listener | None = None) -> Iterator[Row]:
    """Rows of one split, "train" or "dev": of its own sources, or by the hash of the English captions."""
    given = settings.dev if split == "dev" and settings.dev else settings.train
    rows = weighted_rows(sources(given), progress, f"corpus {split}", settings.tags)
    if settings.dev:
        return rows
    return (row for row in rows if (hash_fraction(row.en, "dev") < settings.dev_share) == (split == "dev"))


def weighted_rows(
    given: list[Source], progress: Listener | None = None, stage: str = "corpus", tags: float = CorpusSettings.tags
) -> Iterator[Row]:
    """Rows that the sources' weights take; if there are several sources, each row names its own.

    A progress event is sent every EVENT_ROWS rows.
    """
    names = [Path(source.path).name for source in given]
    total = 0
    for source, name in zip(given, names):
        name = name if names.count(name) == 1 else source.path
        for row in read_rows(source, tags):
            total += 1
            if progress and total % EVENT_ROWS == 0:
                progress(Progress(stage, total, 0))
            if source.weight == 1 or hash_fraction(row.en, "weight") < source.weight:
                yield replace(row, source=row.source or name) if len(given) > 1 else row


@dataclass(frozen=True)
class Sample:
    """A sample of the training pairs, the numbers of training and dev pairs, and the stage's seconds."""

    pairs: list[Pair]
    train: int
    dev: int
    seconds: float


def sample_pairs(recipe: Recipe, zh_length: Length, en_length: Length, progress: Listener | None = None) -> Sample:
    """Estimate what the stage will give from a random few of its rows. Raises CorpusError if none of them is usable."""
    began, settings = time.perf_counter(), recipe.corpus
    train_rows = list(split_rows(settings, "train", progress))
    dev_rows = sum(1 for _ in split_rows(settings, "dev", progress))
    reading = time.perf_counter() - began
    rows = random.Random(0).sample(train_rows, min(SAMPLE_ROWS, len(train_rows)))
    pairs = clean(rows, zh_length, en_length, recipe.window, settings.near).require(1, f"{len(rows)} of its rows")
    pairs = join(pairs, settings.join, zh_length, en_length, recipe.window)
    each, usable = (time.perf_counter() - began - reading) / len(rows), len(pairs) / len(rows)
    train = min(int(len(train_rows) * usable), settings.limit or len(train_rows))
    return Sample(pairs, train, int(dev_rows * usable), reading + each * (train / usable + dev_rows))


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
    """The settings that the corpus depends on, and digests of its files."""
    settings = asdict(recipe.corpus)
    for name in ("train", "dev"):
        del settings[name]
        for at, source in enumerate(sources(getattr(recipe.corpus, name))):
            settings[f"{name} {at}"] = asdict(source) | {"sha256": source_sha256(source)}
            del settings[f"{name} {at}"]["path"]
    return settings | {"window": recipe.window, "student": recipe.student.model, "teacher": recipe.teacher.model}
