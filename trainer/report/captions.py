"""The table of scored captions beside a report, by which two reports are compared in pairs."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..base.files import write_text
from ..base.recipe import SettingsError


@dataclass(frozen=True)
class Caption:
    """One scored caption. Losses are means over positions; a rank of 0 means that its own English is the nearest."""

    zh: str
    en: str
    loss: float
    loss_content: float
    rank: int
    rank_content: int  # from the content positions alone
    nearest: str  # the most similar English caption other than its own


COLUMNS = [field.name for field in fields(Caption)]


def path_beside(report: Path) -> Path:
    """Path of a report's table: R.captions.tsv for R.json."""
    return report.with_suffix(".captions.tsv")


def write(path: Path, captions: list[Caption]) -> None:
    """Write the table atomically."""
    lines = ["\t".join(f"{v:.6f}" if isinstance(v, float) else str(v) for v in astuple(c)) for c in captions]
    write_text(path, "\n".join(["\t".join(COLUMNS), *lines]) + "\n")


def read(path: Path) -> list[Caption]:
    """Read the table. Raises SettingsError if it is missing or malformed."""
    if not path.is_file():
        raise SettingsError(f"{path}: missing; run evaluate again, which writes it beside the report")
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if not lines or lines[0] != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise SettingsError(f"{path}: not a table of captions as evaluate writes it; run evaluate again")
    return [
        Caption(zh, en, float(loss), float(content), int(rank), int(rank_content), nearest)
        for zh, en, loss, content, rank, rank_content, nearest in lines[1:]
    ]
