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

from ..base.files import DamagedError, write_text
from ..base.recipe import CorpusSettings, Recipe, SettingsError, Source
from ..base.settings import check_settings, require, sources
from ..models.teacher import caption_length, load_tokenizer
from ..models.tokenizer import load_tokens
from ..progress import Listener
from .lines import Row
from .pairs import Cleaned, Length, Pair, clean, share
from .rows import read, source_sha256
from .summary import page

SAMPLE = 20_000  # pairs at most whose tokens are looked up for the share of unknown ones


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Pairs as TSV; their texts hold neither tabs nor line ends, for normalising made them spaces."""
    write_text(path, "zh\ten\n" + _tsv(pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Pairs that write_pairs wrote. Raises SettingsError when the corpus stage has not run."""
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
    """The clean pairs of a corpus that an encoder is scored on. Raises CorpusError when there are too few."""
    return clean(read(source), zh_length, en_length, window).at_least(4, source)


@dataclass
class Mixture:
    """Rows of several sources. Counts those read and those that a weight left out, by source, as they pass."""

    sources: list[Source]
    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[Row]:
        """The rows that the weights take, named by source where there are several."""
        names = Counter(Path(source.path).name for source in self.sources)
        for source in self.sources:
            name = Path(source.path).name
            name = name if names[name] == 1 else source.path
            for row in read(source):
                self.read[name] += 1
                if source.weight < 1 and share(row.en, "weight") >= source.weight:
                    self.left_out[name] += 1
                    continue
                yield replace(row, source=row.source or name) if len(self.sources) > 1 else row


Split = tuple[Cleaned, Mixture]


def run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Stage `corpus`: RUN/corpus/train.tsv, dev.tsv, rejects.tsv, summary.html and summary.json; english.tsv where
    English captions are given."""
    folder, settings = recipe.folder / "corpus", recipe.corpus
    if not settings.english or settings.dev:
        require("given" if settings.train else None, "corpus.train", "the pairs to train on")
    student = require(recipe.student.model, "student.model", "the Chinese encoder") if settings.train else ""
    teacher = require(recipe.teacher.model, "teacher.model", "the English encoder")
    check_settings(folder, _settings(recipe))
    if (folder / "summary.json").is_file():
        return
    en_length = partial(caption_length, load_tokenizer(teacher, recipe.teacher.tokenizer))
    splits: dict[str, Split] = {}
    unknown = None
    if settings.train:
        tokens = load_tokens(student, recipe.window)
        splits = _pairs(settings, tokens, en_length, recipe.window)
        pairs = splits["train"][0].pairs
        ids = [i for pair in pairs[:: len(pairs) // SAMPLE + 1] for i in tokens.ids(pair.zh)]
        unknown = ids.count(tokens.special.unknown) / max(1, len(ids))
    if settings.english:
        mixture = Mixture([replace(source, zh="") for source in sources(settings.english)])
        cleaned = clean(mixture.rows(), None, en_length, recipe.window, replace(settings, limit=None))
        splits["english"] = (cleaned, mixture)
    for name, (cleaned, mixture) in splits.items():
        cleaned.at_least(2, " + ".join(source.path for source in mixture.sources), f"{name} pairs")
    _write(folder, splits, unknown)


def _pairs(settings: CorpusSettings, tokens: PromptTokenizer, en_length: Length, window: int) -> dict[str, Split]:
    """The two splits: of two corpora, or of one by the hash of each English caption. The training pairs are followed by
    the prompt-style ones that are made from them."""
    train, held = Mixture(sources(settings.train)), Mixture(sources(settings.dev or settings.train))

    def rows(mixture: Mixture, dev: bool) -> Iterator[Row]:
        every = mixture.rows()
        return every if settings.dev else (row for row in every if (share(row.en, "dev") < settings.dev_share) == dev)

    # A dev set with twins would ask the encoder to tell two equal captions apart.
    own = replace(settings, limit=None, script="keep" if settings.script == "both" else settings.script)
    dev = clean(rows(held, True), tokens.length, en_length, window, own)
    pairs = clean(rows(train, False), tokens.length, en_length, window, settings, taken=dev.pairs)
    return {"train": (pairs, train), "dev": (dev, held)}


def _write(folder: Path, splits: dict[str, Split], unknown: float | None) -> None:
    """All files of the stage; summary.json last, for it says that the others are whole."""
    summary: dict[str, dict] = {}
    cleaned_splits = {name: cleaned for name, (cleaned, _) in splits.items()}
    for name, (cleaned, mixture) in splits.items():
        if name == "english":
            write_text(folder / "english.tsv", "en\n" + "".join(f"{pair.en}\n" for pair in cleaned.pairs))
        else:
            write_pairs(folder / f"{name}.tsv", cleaned.pairs)
        summary[name] = {"rows": len(cleaned.pairs), "rejected": cleaned.counts(), "read": dict(mixture.read)}
        further = {"left_out_by_weight": dict(mixture.left_out), "simplified_twins": cleaned.twins}
        summary[name] |= {key: value for key, value in further.items() if value}
    if unknown is not None:
        summary["train"]["unknown_tokens"] = unknown
    write_text(folder / "rejects.tsv", rejects_table(cleaned_splits))
    write_text(folder / "summary.html", page(summary, cleaned_splits))
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    for name, counted in summary.items():
        noun = "captions" if name == "english" else "pairs"
        print(f"corpus: {name} {counted['rows']} {noun}, rejected {counted['rejected'] or 'none'}")


def rejects_table(splits: dict[str, Cleaned]) -> str:
    """rejects.tsv: split, row (behind its file where there are several), reason, zh, en."""
    lines = ["split\trow\treason\tzh\ten\n"]
    for split, cleaned in splits.items():
        for row in cleaned.rejects:
            zh, en = (" ".join(text.split()) for text in (row.zh, row.en))
            place = f"{row.source}:{row.number}" if row.source else str(row.number)
            lines.append(f"{split}\t{place}\t{row.fault}\t{zh}\t{en}\n")
    return "".join(lines)


def _settings(recipe: Recipe) -> dict:
    settings = asdict(recipe.corpus)
    for name in ("train", "dev", "english"):
        del settings[name]
        for at, source in enumerate(sources(getattr(recipe.corpus, name))):
            settings[f"{name} {at}"] = asdict(source) | {"sha256": source_sha256(source)}
            del settings[f"{name} {at}"]["path"]
    return settings | {"window": recipe.window, "student": recipe.student.model, "teacher": recipe.teacher.model}
