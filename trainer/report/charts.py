"""Line charts as coordinates, which the page's template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26  # margins
MOST = 240  # points of a line; of a longer one, means of neighbours


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn from coordinate `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values from low to high."""
        raw = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(raw))
        step = min((power * m for m in (1, 2, 5, 10)), key=lambda size: abs(size - raw))
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


class LineChart(NamedTuple):
    """Lines by CSS class on common axes; the vertical one includes 0."""

    x: Axis
    y: Axis
    lines: list[tuple[str, Points]]

    @classmethod
    def from_points(cls, series: Mapping[str, Points]) -> LineChart:
        """The chart of points by CSS class."""
        series = {name: averaged(points) for name, points in series.items()}
        xs, ys = zip(*(point for points in series.values() for point in points))
        x = Axis(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
        y = Axis(min(0.0, *ys), max(0.0, *ys) * 1.05 or 1.0, HEIGHT - BOTTOM, TOP)
        return cls(x, y, [(name, [(x.at(a), y.at(b)) for a, b in points]) for name, points in series.items()])


def averaged(points: Points) -> Points:
    """At most MOST points: the means of groups of neighbours, each at its group's last x."""
    size = math.ceil(len(points) / MOST)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], fmean(y for _, y in group)) for group in groups]
