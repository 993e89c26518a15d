"""What a comparison is made of: prompts, rows, and one cell for each picture.

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

from ..base import CompareSettings, SettingsError
from ..corpus import CorpusError, lines

DEFAULT = Path(__file__).with_name("prompts.tsv")
ENGLISH = "english"


@dataclass(frozen=True)
class Prompt:
    """One prompt in both languages; `paraphrase` is the English in other words, where there is one."""

    zh: str
    en: str
    paraphrase: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the grid. `reads`: which text its encoder is given: zh, en, paraphrase, other or empty."""

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
    """One picture: row and column, the text as its encoder reads it, and all that shapes the picture."""

    row: Row
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
    for number, line, fault in lines(path):
        if fault:
            raise CorpusError(f"--prompts {path}: line {number} is {fault}; save the file as UTF-8")
        texts.append(line + "\n")
    plain = path.suffix.lower() == ".tsv"
    found = list(
        csv.reader(texts, delimiter="\t" if plain else ",", quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
    )
    header = found[0]
    if not {"zh", "en"} <= set(header):
        raise CorpusError(f"--prompts {path}: its columns are {', '.join(header)}; it needs zh and en")
    prompts = []
    for number, values in enumerate(found[1:], 2):
        record = {name: value.strip() for name, value in zip(header, values)}
        missing = [name for name in ("zh", "en", "paraphrase") if name in header and not record.get(name)]
        if values and missing:
            raise CorpusError(f"--prompts {path}: row {number} has no {missing[0]}; each column is filled or left out")
        prompts += [Prompt(record["zh"], record["en"], record.get("paraphrase", ""))] if values else []
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
        found = [int(part) for part in listed(settings.seeds)]
    except ValueError as error:
        raise SettingsError(f"--seeds {settings.seeds}: give whole numbers, such as 42 or 1,2,3") from error
    if not found or min(found) < 0 or max(found) >= 2**63:
        raise SettingsError(f"--seeds {settings.seeds}: give whole numbers from 0 on")
    return list(dict.fromkeys(found))


def rows(settings: CompareSettings, paraphrased: bool, checkpoint_sha256: str) -> list[Row]:
    """The reference, the encoders, the ceiling where there is one, the floors. Raises as `zhclip.artifact.load`."""
    paths = [path for path in dict.fromkeys(listed(settings.encoders)) if path != ENGLISH]
    ceiling = [Row("English paraphrase", ENGLISH, "paraphrase", checkpoint_sha256)] if paraphrased else []
    return [
        Row(ENGLISH, ENGLISH, "en", checkpoint_sha256),
        *(Row(label, path, "zh", file_sha256(Path(path))) for path, label in zip(paths, labels(paths))),
        *ceiling,
        Row("another prompt", ENGLISH, "other", checkpoint_sha256),
        Row("empty prompt", ENGLISH, "empty", checkpoint_sha256),
    ]


def labels(paths: list[str]) -> list[str]:
    """Each artifact by its file's name, or by its run's where that is encoder.safetensors; two alike by their paths."""
    for path in paths:
        read_meta(path)  # raises for what is no artifact, before anything is painted
    short = [Path(path).resolve().parent.name if Path(path).stem == "encoder" else Path(path).stem for path in paths]
    return [name if short.count(name) == 1 and name != ENGLISH else path for name, path in zip(short, paths)]


def cells(settings: CompareSettings, prompts: list[Prompt], made: list[Row], common: dict[str, Any]) -> list[Cell]:
    """Every cell, seed by seed and prompt by prompt, the reference first. `common`: what all pictures share."""
    found = []
    for seed in seeds(settings):
        for column, prompt in enumerate(prompts):
            texts = {"empty": "", "other": another(prompts, column), "en": prompt.en, "zh": prompt.zh}
            texts["paraphrase"] = prompt.paraphrase
            for row in made:
                name = row.encoder if row.encoder == ENGLISH else Path(row.label).name
                own = {"encoder": name, "encoder sha256": row.sha256, "prompt": texts[row.reads], "seed": seed}
                found.append(Cell(row, column, texts[row.reads], seed, {**common, **own}))
    return found


def file_sha256(*paths: Path) -> str:
    """Digest of files, in this order; of one file, what sha256sum says."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()
