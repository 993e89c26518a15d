"""Two functions timed in turns: a table with the ratio and its spread."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


@dataclass
class Race:
    """Seconds of each round for both. The ratio is taken within a round, so a busy moment slows both."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds, and the smallest and largest of each."""
        ratios = [ours / plain for ours, plain in zip(self.ours, self.plain)]
        return {
            "plain_s": statistics.median(self.plain),
            "ours_s": statistics.median(self.ours),
            "ratio": statistics.median(ratios),
            "plain_spread_s": [min(self.plain), max(self.plain)],
            "ours_spread_s": [min(self.ours), max(self.ours)],
            "ratio_spread": [min(ratios), max(ratios)],
        }


def race(
    plain: Callable[[], Any],
    ours: Callable[[], Any],
    quick: bool,
    repeat: int = 1,
    ready: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda function: function,
    number: int = ROUNDS,
) -> Race:
    """Time two functions in turns, after one call of each: `repeat` calls of each in each of `number` rounds.

    `quick` calls both once and first. `ready` returns, untimed, the call that is timed for a function.
    """
    if quick:
        repeat = number = 1
    else:
        ready(plain)()
        ready(ours)()
    out = Race()
    for _ in range(number):
        seconds = [0.0, 0.0]
        for at in range(2 * repeat):
            # plain, ours, ours, plain: neither always runs in the caches that the other left.
            which = (at + at // 2) % 2
            call = ready(ours if which else plain)
            began = time.perf_counter()
            call()
            seconds[which] += time.perf_counter() - began
        out.plain.append(seconds[0] / repeat)
        out.ours.append(seconds[1] / repeat)
    return out


def tell(races: Mapping[str, Race], plain: str, what: str, path: Path | None) -> None:
    """Print what ran where and one line a case: medians in milliseconds, the ratio, and what the rounds span. With a
    path, write the figures as JSON."""
    print(f"{what}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':34}{plain:>16}{'ours':>12}{'ratio':>8}   ratios of the rounds")
    figures = {name: measured.summary() for name, measured in races.items()}
    for name, s in figures.items():
        low, high = s["ratio_spread"]
        print(
            f"{name:34}{1000 * s['plain_s']:13.1f} ms{1000 * s['ours_s']:9.1f} ms{s['ratio']:8.2f}   "
            f"{low:.2f} .. {high:.2f}"
        )
    if path:
        content = {"what": what, "threads": torch.get_num_threads(), "cases": figures}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the two options that every race has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: whether it runs, no figures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser
