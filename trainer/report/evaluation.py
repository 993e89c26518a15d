"""What is written about an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .captions import Caption
from .charts import Points


@dataclass(frozen=True)
class Evaluation:
    """The report as plain JSON values, the scored captions one by one, and what the page shows beside them. Curves and
    splits are empty where there is no run."""

    report: dict[str, Any]
    captions: list[Caption]
    mapped: Sequence[int]  # captions of the heat map
    likeness: Sequence[Sequence[float]]  # of these, zh by en
    recipe: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    corpus: Mapping[str, dict] = field(default_factory=dict)  # by split: rows, rejected
