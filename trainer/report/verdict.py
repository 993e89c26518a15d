"""A report in one sentence, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("report_words.json").read_text(encoding="utf-8"))
"""The report's phrases, each (English, Chinese), or groups of them by a word of the report."""


def verdict(report: Mapping, language: str = "en") -> str:
    """How much better than its baselines an encoder is, and how many captions find their own translation first."""
    loss = report["loss"]["all"]
    ridge, constant = (report["baselines"][name]["all"] for name in ("ridge", "constant"))
    if loss >= constant:
        outcome = "constant"
    elif report.get("strategy") == "ridge":
        outcome = "untrained"
    else:
        outcome = "ridge" if loss >= ridge else "better"
    return WORDS["verdict"][outcome][LANGUAGES.index(language)].format(
        loss=f"{loss:.3f}",
        ridge=f"{ridge:.3f}",
        constant=f"{constant:.3f}",
        below_ridge=f"{1 - loss / ridge:.0%}" if ridge else "",
        below_constant=f"{1 - loss / constant:.0%}" if constant else "",
        hits=f"{round(report['rows'] * report['retrieval']['zh_to_en']['R@1']):,}",
        rows=f"{report['rows']:,}",
    )
