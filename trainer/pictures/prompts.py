"""Prompts of a comparison: a table with the columns zh and en, and optionally paraphrase."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

from ..base.recipe import SettingsError
from ..corpus.lines import CorpusError

DEFAULT = Path(__file__).with_name("prompts.tsv")


class Prompt(NamedTuple):
    """One prompt in both languages. `paraphrase`: the English in other words, or an empty text."""

    zh: str
    en: str
    paraphrase: str = ""


def read_prompts(path: Path) -> list[Prompt]:
    """Read a .tsv (tabs, no quoting) or .csv with a header. Raises CorpusError, which names the line."""
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix.lower() == ".tsv" else {}
    prompts = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, **tabs)
            columns = [name for name in Prompt._fields if name in (table.fieldnames or [])]
            if columns[:2] != ["zh", "en"]:
                raise CorpusError(
                    f"--prompts {path}: it needs columns zh and en, and has {', '.join(table.fieldnames or [])}"
                )
            for row in table:
                fields = {name: (row[name] or "").strip() for name in columns}
                if not all(fields.values()):
                    raise CorpusError(f"--prompts {path}: line {table.line_num} has an empty column")
                prompts.append(Prompt(**fields))
    except (OSError, UnicodeError, csv.Error) as error:
        raise CorpusError(f"--prompts {path}: cannot be read ({error}); give a .tsv or .csv in UTF-8") from error
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
