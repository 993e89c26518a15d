"""A run's TensorBoard files: what training logged, read back, and a report's figures, logged under their own names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ..base.files import replacing_folder

EVENTS = "events.out.tfevents.*"
REPORT = "report"
ALL = {"scalars": 0}  # of these keep all


def read(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """What training logged, as (step, value) by name. Of a step that a resumed run took again the newer value counts;
    empty where there are no files."""
    files = [path for path in logs.rglob(EVENTS) if path.relative_to(logs).parts[0] != REPORT]
    logged: dict[str, dict[int, float]] = {}
    for path in sorted(files, key=lambda path: path.name):  # named by the time at which they were begun
        events = EventAccumulator(str(path), size_guidance=ALL)
        events.Reload()
        for name in events.Tags()["scalars"]:
            logged.setdefault(name, {}).update((event.step, event.value) for event in events.Scalars(name))
    return {name: sorted(values.items()) for name, values in sorted(logged.items())}


def figures(report: dict[str, Any], name: str = REPORT) -> Iterator[tuple[str, float]]:
    """Every number of a report by its keys: report/loss/all, report/baselines/ridge/content, report/skill, ..."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from figures(value, f"{name}/{key}")
        elif isinstance(value, (int, float)):
            yield f"{name}/{key}", value


def write(logs: Path, report: dict[str, Any], step: int) -> None:
    """Log a report's figures at a step into LOGS/report, in place of an earlier evaluation's."""
    with replacing_folder(logs / REPORT) as folder, SummaryWriter(str(folder)) as writer:
        for name, value in figures(report):
            writer.add_scalar(name, value, step)
