"""The table of scored captions beside a report, by which two reports are compared in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..base.files import write_text
from ..base.recipe import SettingsError


class Caption(NamedTuple):
    """One scored caption. Losses are means over positions; a rank of 0 means that its own English is the nearest."""

    zh: str
    en: str
    loss: float
    loss_content: float
    rank: int
    rank_content: int  # from the content positions alone
    nearest: str  # the most similar English caption other than its own


TYPES = (str, str, float, float, int, int, str)


def path_beside(report: Path) -> Path:
    """Path of a report's table: R.captions.tsv for R.json."""
    return report.with_suffix(".captions.tsv")


def write(path: Path, captions: list[Caption]) -> None:
    """Write the table atomically."""
    rows = [[f"{value:.6f}" if isinstance(value, float) else str(value) for value in caption] for caption in captions]
    write_text(path, "".join("\t".join(row) + "\n" for row in [Caption._fields, *rows]))


def read(path: Path) -> list[Caption]:
    """Read the table. Raises SettingsError if it is missing or malformed."""
    if not path.is_file():
        raise SettingsError(f"{path}: missing; run evaluate again, which writes it beside the report")
    try:
        columns, *rows = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        if columns != Caption._fields:
            raise ValueError("other columns")
        return [Caption(*(kind(cell) for kind, cell in zip(TYPES, row, strict=True))) for row in rows]
    except ValueError as error:
        raise SettingsError(f"{path}: no table of captions as evaluate writes it ({error}); run it again") from error
