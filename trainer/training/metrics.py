"""RUN/metrics.jsonl: one JSON object a line, with `step` and the metrics of that step."""

from __future__ import annotations

import json
from pathlib import Path

from ..base.files import write_text

FILE = "metrics.jsonl"


def append(path: Path, step: int, values: dict[str, float]) -> None:
    """Add the metrics of one step."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def read(path: Path) -> list[dict[str, float]]:
    """The objects of all complete lines; none without the file. A killed run can leave an incomplete last line."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def truncate(path: Path, step: int) -> None:
    """Remove the lines after `step`, from which a resumed run continues."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in read(path) if row["step"] <= step))
