"""Prompts of a comparison: a table with the columns zh and en, and optionally paraphrase."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ..base.recipe import SettingsError
from ..corpus.lines import CorpusError, read_lines

DEFAULT = Path(__file__).with_name("prompts.tsv")
COLUMNS = ("zh", "en", "paraphrase")


@dataclass(frozen=True)
class Prompt:
    """One prompt in both languages. `paraphrase`: the English in other words, or an empty text."""

    zh: str
    en: str
    paraphrase: str = ""


def read_prompts(path: Path) -> list[Prompt]:
    """Read a .tsv (tabs, no quoting) or .csv with a header. Raises CorpusError, which names the line."""
    if not path.is_file():
        raise CorpusError(f"--prompts {path}: there is no such file; give a .tsv or .csv with columns zh and en")
    texts = []
    for number, line, fault in read_lines(path):
        if fault:
            raise CorpusError(f"--prompts {path}: line {number} is {fault}; save the file as UTF-8")
        texts.append(line + "\n")
    tabs = path.suffix.lower() == ".tsv"
    table = csv.DictReader(
        texts, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    columns = [name for name in COLUMNS if name in (table.fieldnames or [])]
    if columns[:2] != ["zh", "en"]:
        raise CorpusError(f"--prompts {path}: it needs columns zh and en, and has {', '.join(table.fieldnames or [])}")
    prompts = []
    for row in table:
        fields = {name: (row[name] or "").strip() for name in columns}
        if not all(fields.values()):
            raise CorpusError(f"--prompts {path}: line {table.line_num} has an empty column; fill each or leave it out")
        prompts.append(Prompt(**fields))
    if not prompts:
        raise CorpusError(f"--prompts {path}: it has a header and no prompt")
    return prompts


def another(prompts: list[Prompt], column: int) -> str:
    """An English prompt other than this one: the next of the file, or one of the default ones."""
    following = [prompt.en for prompt in [*prompts[column + 1 :], *prompts[:column], *read_prompts(DEFAULT)]]
    return next(text for text in following if text != prompts[column].en)


def listed(value: object) -> list[str]:
    """A list as it is, or the parts of a text between commas."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def parse_seeds(value: object) -> list[int]:
    """The seeds, each once. Raises SettingsError."""
    seeds = [int(part) if part.isdecimal() else -1 for part in listed(value)]
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**63:
        raise SettingsError(f"--seeds {value}: give whole numbers from 0 on, such as 42 or 1,2,3")
    return seeds
