"""The scored captions one by one, as a table beside the report: what two reports can be compared by, in pairs."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..base.files import write_text
from ..base.recipe import SettingsError


@dataclass(frozen=True)
class Caption:
    """One scored caption. Ranks count the English captions that stand before its own, 0: found first."""

    zh: str
    en: str
    loss: float  # over all positions
    loss_content: float
    rank: int
    rank_content: int  # by content positions alone
    nearest: str  # the English caption, not its own, that is most alike


COLUMNS = [field.name for field in fields(Caption)]


def beside(report: Path) -> Path:
    """The table of a report: R.json's is R.captions.tsv."""
    return report.with_suffix(".captions.tsv")


def write(path: Path, captions: list[Caption]) -> None:
    """Write the table, whole or not at all."""
    lines = ["\t".join(f"{v:.6f}" if isinstance(v, float) else str(v) for v in astuple(c)) for c in captions]
    write_text(path, "\n".join(["\t".join(COLUMNS), *lines]) + "\n")


def read(path: Path) -> list[Caption]:
    """Read it again. Raises SettingsError when it is missing or not such a table."""
    if not path.is_file():
        raise SettingsError(f"{path}: not there; evaluate writes it beside the report, run that again")
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if not lines or lines[0] != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise SettingsError(f"{path}: not a table of captions as evaluate writes it; run evaluate again")
    return [
        Caption(zh, en, float(loss), float(content), int(rank), int(rank_content), nearest)
        for zh, en, loss, content, rank, rank_content, nearest in lines[1:]
    ]
