"""What a comparison is made of: prompts, their readers, one a row, and one cell for each picture.

A cell's name is a digest of all that shapes its picture. So what is painted already is known by its file's name, and a
row that asks for a picture of another row, as `another prompt` does, finds it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhclip.artifact import read_meta

from ..base.files import file_sha256
from ..base.recipe import SettingsError
from ..base.stage_settings import CompareSettings
from ..corpus.lines import CorpusError, read_lines

DEFAULT = Path(__file__).with_name("prompts.tsv")
ENGLISH = "english"


@dataclass(frozen=True)
class Prompt:
    """One prompt in both languages; `paraphrase` is the English in other words, where there is one."""

    zh: str
    en: str
    paraphrase: str = ""


@dataclass(frozen=True)
class Reader:
    """One row: an encoder, and which text it reads: zh, en, paraphrase, other or empty."""

    label: str
    encoder: str
    reads: str
    sha256: str

    @property
    def kind(self) -> str:
        """What its figures are: the reference, an encoder's, the ceiling or a floor."""
        kinds = {"en": "reference", "zh": "encoder", "paraphrase": "ceiling"}
        return kinds.get(self.reads, "floor")


@dataclass(frozen=True)
class Cell:
    """One picture: its reader and column, the text as it is read, and all that shapes the picture."""

    reader: Reader
    column: int
    text: str
    seed: int
    made_with: dict[str, Any]

    @property
    def name(self) -> str:
        """File name without suffix."""
        digest = hashlib.sha256(json.dumps(self.made_with, sort_keys=True).encode()).hexdigest()[:16]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', str(self.made_with['encoder']))}-seed{self.seed}-{digest}"


def read_prompts(path: Path) -> list[Prompt]:
    """A .tsv (fields between tabs, no quoting) or .csv with a header. Raises CorpusError, with the line."""
    if not path.is_file():
        raise CorpusError(f"--prompts {path}: there is no such file; give a .tsv or .csv with columns zh and en")
    texts = []
    for number, line, fault in read_lines(path):
        if fault:
            raise CorpusError(f"--prompts {path}: line {number} is {fault}; save the file as UTF-8")
        texts.append(line + "\n")
    plain = path.suffix.lower() == ".tsv"
    records = csv.DictReader(
        texts, delimiter="\t" if plain else ",", quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    )
    header = records.fieldnames or []
    if not {"zh", "en"} <= set(header):
        raise CorpusError(f"--prompts {path}: its columns are {', '.join(header)}; it needs zh and en")
    prompts = []
    for record in records:
        fields = {name: (record[name] or "").strip() for name in ("zh", "en", "paraphrase") if name in header}
        if missing := next((name for name, text in fields.items() if not text), None):
            row = records.line_num
            raise CorpusError(f"--prompts {path}: row {row} has no {missing}; each column is filled or left out")
        prompts.append(Prompt(**fields))
    if not prompts:
        raise CorpusError(f"--prompts {path}: it has a header and no prompt")
    return prompts


def another(prompts: list[Prompt], column: int) -> str:
    """An English prompt that is not this one: the next of the file, or one of the default ones."""
    after = [prompt.en for prompt in [*prompts[column + 1 :], *prompts[:column], *read_prompts(DEFAULT)]]
    return next(text for text in after if text != prompts[column].en)


def listed(value: Any) -> list[str]:
    """A list as it is, or the parts of a text between commas."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def seeds(settings: CompareSettings) -> list[int]:
    """The seeds, each once. Raises SettingsError."""
    try:
        numbers = [int(part) for part in listed(settings.seeds)]
    except ValueError as error:
        raise SettingsError(f"--seeds {settings.seeds}: give whole numbers, such as 42 or 1,2,3") from error
    if not numbers or min(numbers) < 0 or max(numbers) >= 2**63:
        raise SettingsError(f"--seeds {settings.seeds}: give whole numbers from 0 on")
    return list(dict.fromkeys(numbers))


def readers(settings: CompareSettings, paraphrased: bool, checkpoint_sha256: str) -> list[Reader]:
    """The reference, the encoders, the ceiling where there is one, the floors. Raises as `zhclip.artifact.load`."""
    paths = [path for path in dict.fromkeys(listed(settings.encoders)) if path != ENGLISH]
    by_clip = {"English paraphrase": "paraphrase"} if paraphrased else {}
    by_clip |= {"another prompt": "other", "empty prompt": "empty"}
    return [
        Reader(ENGLISH, ENGLISH, "en", checkpoint_sha256),
        *(Reader(label, path, "zh", file_sha256(Path(path))) for path, label in zip(paths, labels(paths))),
        *(Reader(label, ENGLISH, reads, checkpoint_sha256) for label, reads in by_clip.items()),
    ]


def labels(paths: list[str]) -> list[str]:
    """Each artifact by its file's name, or by its run's where that is encoder.safetensors; two alike by their paths."""
    for path in paths:
        read_meta(path)  # raises for what is no artifact, before anything is painted
    short = [Path(path).resolve().parent.name if Path(path).stem == "encoder" else Path(path).stem for path in paths]
    return [name if short.count(name) == 1 and name != ENGLISH else path for name, path in zip(short, paths)]


def cells(
    settings: CompareSettings, prompts: list[Prompt], readers: list[Reader], common: dict[str, Any]
) -> list[Cell]:
    """Every cell, seed by seed and prompt by prompt, the reference first. `common`: what all pictures share."""
    made = []
    for seed in seeds(settings):
        for column, prompt in enumerate(prompts):
            texts = {**vars(prompt), "empty": "", "other": another(prompts, column)}
            for reader in readers:
                name = reader.encoder if reader.encoder == ENGLISH else Path(reader.label).name
                text = texts[reader.reads]
                own = {"encoder": name, "encoder sha256": reader.sha256, "prompt": text, "seed": seed}
                made.append(Cell(reader, column, text, seed, {**common, **own}))
    return made
