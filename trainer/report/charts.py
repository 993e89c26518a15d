"""Figures as places on a chart, which the page's template draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, TALL = 720, 260, 100  # of curves and of a histogram's bars
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26
DRAWN = 600  # points of a line: more than a screen shows
SMOOTH = 40  # a running mean takes this fraction of a line's points
BARS = 48


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers from low to high, about so many."""
        raw = (self.high - self.low) / about
        size = 10 ** math.floor(math.log10(raw))
        step = min((size * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Curves(NamedTuple):
    """Lines by CSS class over common axes, the vertical one with 0. A long one lies thin under its running mean."""

    x: Axis
    y: Axis
    lines: list[tuple[str, Points]]

    @classmethod
    def of(cls, series: Mapping[str, Points]) -> Curves:
        """Of points by CSS class."""
        xs, ys = zip(*(point for points in series.values() for point in points))
        x = Axis(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
        y = Axis(min(0.0, *ys), max(0.0, *ys) * 1.05 or 1.0, HEIGHT - BOTTOM, TOP)
        lines = [(f"{name} thin", points) for name, points in series.items() if running_mean(points) is not points]
        lines += [(name, running_mean(points)) for name, points in series.items()]
        return cls(x, y, [(name, [(x.at(a), y.at(b)) for a, b in thinned(points)]) for name, points in lines])


def running_mean(points: Points) -> Points:
    """Each point's mean with its neighbours; the points themselves where they are few."""
    reach = len(points) // SMOOTH // 2
    if not reach:
        return points
    ys = [y for _, y in points]
    near = [ys[max(0, i - reach) : i + reach + 1] for i in range(len(ys))]
    return [(x, sum(some) / len(some)) for (x, _), some in zip(points, near)]


def thinned(points: Points) -> Points:
    """At most about DRAWN of the points, the last one among them."""
    step = max(1, len(points) // DRAWN)
    return [*points[:-1:step], points[-1]]


class Histogram(NamedTuple):
    """Bars from 0 to the largest of values and marks. A mark is an upright line of its CSS class."""

    x: Axis
    bars: list[tuple[float, float, int]]  # from, to, count
    marks: Mapping[str, float]

    @classmethod
    def of(cls, values: Sequence[float], marks: Mapping[str, float]) -> Histogram:
        """Of values, and marks by CSS class."""
        top = max([*values, *marks.values()]) * 1.02 or 1.0
        counts, edges = np.histogram(np.clip(values, 0, top), BARS, (0, top))
        bars = list(zip(edges.tolist(), edges[1:].tolist(), counts.tolist()))
        return cls(Axis(0, top, LEFT, WIDTH - RIGHT), bars, marks)
