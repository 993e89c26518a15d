"""Two functions timed in turns: a table with the ratio and its range."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


class Race(NamedTuple):
    """Median seconds of both over the rounds, and the ratio of each round, ours / plain, in ascending order."""

    plain: float
    ours: float
    ratios: list[float]


def race(plain: Callable[[], Any], ours: Callable[[], Any], quick: bool, repeat: int = 1) -> Race:
    """Time two functions in turns, after one call of each: `repeat` calls of each in each of ROUNDS rounds.

    The ratio is taken within a round, so that a busy moment slows both. `quick`: the first call of each.
    """
    if not quick:
        plain()
        ours()
    rounds = []
    for _ in range(1 if quick else ROUNDS):
        calls = [plain, ours, ours, plain] * repeat  # neither always runs in the caches that the other left
        seconds = {plain: 0.0, ours: 0.0}
        for call in calls[: 2 if quick else 2 * repeat]:
            began = time.perf_counter()
            call()
            seconds[call] += time.perf_counter() - began
        rounds.append([total / (1 if quick else repeat) for total in seconds.values()])
    plain_median, ours_median = map(statistics.median, zip(*rounds))
    return Race(plain_median, ours_median, sorted(b / a for a, b in rounds))


def print_table(races: Mapping[str, Race], plain: str, conditions: str) -> None:
    """Print the conditions and one line a case: medians in milliseconds, the median ratio and its range."""
    print(f"{conditions}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':34}{plain:>16}{'ours':>12}{'ratio':>8}   ratios of the rounds")
    for name, (plain_seconds, ours_seconds, ratios) in races.items():
        print(
            f"{name:34}{1000 * plain_seconds:13.1f} ms{1000 * ours_seconds:9.1f} ms"
            f"{statistics.median(ratios):8.2f}   {ratios[0]:.2f} .. {ratios[-1]:.2f}"
        )


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: whether it runs, no figures")
    return parser
