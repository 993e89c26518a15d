"""Stage `corpus`: sources are read, cleaned, deduplicated and split, and every rejected row is written down."""

from __future__ import annotations

import hashlib
import json
import logging
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
from ..progress import Listener, Progress
from .lines import Row
from .pairs import Cleaned, Length, Pair, clean, share
from .readers import read, source_sha256

SAMPLE = 20_000  # pairs at most whose tokens are looked up for the share of unknown ones
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


@dataclass
class Mixture:
    """Rows of several sources with weights. `read` and `left_out` count them by source while they are iterated."""

    sources: list[Source]
    name: str = ""  # of the split, in progress events
    progress: Listener | None = None
    read: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[Row]:
        """Rows that the weights take, with the name of their source if there are several."""
        names = Counter(Path(source.path).name for source in self.sources)
        for source in self.sources:
            name = Path(source.path).name
            name = name if names[name] == 1 else source.path
            for row in read(source):
                self.read[name] += 1
                if self.progress and self.read[name] % EVENT_ROWS == 0:
                    self.progress(Progress(f"corpus {self.name}", self.read.total(), 0))
                if source.weight < 1 and share(row.en, "weight") >= source.weight:
                    self.left_out[name] += 1
                    continue
                yield replace(row, source=row.source or name) if len(self.sources) > 1 else row


Split = tuple[Cleaned, Mixture]


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
    splits: dict[str, Split] = {}
    unknown = None
    if settings.train:
        tokens = load_tokens(student, recipe.window, recipe.endpoint)
        splits = _clean_splits(settings, tokens, en_length, recipe.window, progress)
        pairs = splits["train"][0].pairs
        ids = [i for pair in pairs[:: len(pairs) // SAMPLE + 1] for i in tokens.ids(pair.zh)]
        unknown = ids.count(tokens.special.unknown) / max(1, len(ids))
    if settings.english:
        mixture = Mixture([replace(source, zh="") for source in sources(settings.english)], "english", progress)
        cleaned = clean(mixture.rows(), None, en_length, recipe.window, replace(settings, limit=None))
        splits["english"] = (cleaned, mixture)
    for name, (cleaned, mixture) in splits.items():
        cleaned.at_least(2, " + ".join(source.path for source in mixture.sources), f"{name} pairs")
    _write(folder, splits, unknown)


def _clean_splits(
    settings: CorpusSettings, tokens: PromptTokenizer, en_length: Length, window: int, progress: Listener | None
) -> dict[str, Split]:
    """Training and dev pairs of two corpora, or of one by the hash of each English caption."""
    train = Mixture(sources(settings.train), "train", progress)
    held = Mixture(sources(settings.dev or settings.train), "dev", progress)

    def rows(mixture: Mixture, dev: bool) -> Iterator[Row]:
        every = mixture.rows()
        return every if settings.dev else (row for row in every if (share(row.en, "dev") < settings.dev_share) == dev)

    # A dev set with twins would ask the encoder to tell two equal captions apart.
    own = replace(settings, limit=None, script="keep" if settings.script == "both" else settings.script)
    dev = clean(rows(held, True), tokens.length, en_length, window, own)
    pairs = clean(rows(train, False), tokens.length, en_length, window, settings, taken=dev.pairs)
    return {"train": (pairs, train), "dev": (dev, held)}


def _write(folder: Path, splits: dict[str, Split], unknown: float | None) -> None:
    """Write all files; summary.json last, which marks the others as complete."""
    summary: dict[str, dict] = {}
    for name, (cleaned, mixture) in splits.items():
        if name == "english":
            write_text(folder / "english.tsv", "en\n" + "".join(f"{pair.en}\n" for pair in cleaned.pairs))
        else:
            write_pairs(folder / f"{name}.tsv", cleaned.pairs)
        summary[name] = {"rows": len(cleaned.pairs), "rejected": cleaned.counts(), "read": dict(mixture.read)}
        counts = {"left_out_by_weight": dict(mixture.left_out), "simplified_twins": cleaned.twins}
        summary[name] |= {key: value for key, value in counts.items() if value}
        logger.info("corpus: %s %d rows, rejected %s", name, len(cleaned.pairs), cleaned.counts() or "none")
    if unknown is not None:
        summary["train"]["unknown_tokens"] = unknown
        logger.info("corpus: %.2f%% of the Chinese tokens are unknown to the student's vocabulary", 100 * unknown)
    write_text(folder / "rejects.tsv", rejects_table({name: cleaned for name, (cleaned, _) in splits.items()}))
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
