"""The encoder and its floors by name: what each is called, and the figures that a report has of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("report_words.json").read_text(encoding="utf-8"))
"""The phrases of a report, (English, Chinese)."""
LABELS: dict[str, str] = {name: english for name, (english, _) in WORDS["predictor"].items()}


def by_predictor(report: dict, part: str) -> dict[str, dict]:
    """The encoder's figures and then those of the floors that there are; `part` is loss, retrieval or
    retrieval_content."""
    figures = {"aligned": report[part], **report["baselines" if part == "loss" else f"baselines_{part}"]}
    return {name: figures[name] for name in LABELS if figures.get(name)}
