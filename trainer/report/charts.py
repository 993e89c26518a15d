"""Charts as inline SVG: figures in, text out. Colours are classes, so that a page chooses them for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26
DRAWN = 600  # points of a line: more than a screen shows
SMOOTH = 40  # a running mean takes this fraction of a line's points


def lines(series: dict[str, Points]) -> str:
    """Lines over a common x axis and a y axis with 0, by CSS class. A long one lies thin under its running mean."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    base, top = min(0.0, *ys), max(0.0, *ys) * 1.05 or 1.0
    low, high = min(xs), max(max(xs), min(xs) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - (y - base) / (top - base) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(base, top):
        y = at(low, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(low, high):
        x = at(tick, base)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{tick:,.10g}</text>')
    for name, points in series.items():
        mean = running_mean(points)
        if mean is not points:
            parts.append(_path(f"{name} thin", [at(*point) for point in thinned(points)]))
        parts.append(_path(name, [at(*point) for point in thinned(mean)]))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _path(name: str, points: Points) -> str:
    if len(points) == 1:
        return f'<circle class="{name}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>'
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    raw = (high - low) / about
    size = 10 ** math.floor(math.log10(raw))
    step = min((size * m for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


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


def heat(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], cell: int = 22) -> str:
    """A grid of cosines: deep where alike, another colour below 0. Rows and columns are numbered from 1; a cell's
    tooltip names both. The diagonal is outlined."""
    side = cell * (len(values) + 1)
    parts = []
    for i, line in enumerate(values):
        middle = cell * (i + 1.5) + 4
        parts.append(f'<text x="{cell - 6}" y="{middle:.0f}" text-anchor="end">{i + 1}</text>')
        parts.append(f'<text x="{middle - 4:.0f}" y="{cell - 7}" text-anchor="middle">{i + 1}</text>')
        for j, value in enumerate(line):
            name = "cold" if value < 0 else "warm"
            place = f'x="{cell * (j + 1)}" y="{cell * (i + 1)}" width="{cell - 1}" height="{cell - 1}"'
            tip = escape(f"{value:.2f}: {rows[i]} / {columns[j]}")
            own = " own" if i == j else ""
            parts.append(f'<rect class="{name}{own}" {place} fill-opacity="{min(1, abs(value)):.2f}"><title>{tip}')
            parts.append("</title></rect>")
    return f'<svg viewBox="0 0 {side} {side}" role="img">{"".join(parts)}</svg>'


def spread(values: Sequence[float], marks: dict[str, float], bars: int = 48) -> str:
    """A histogram from 0 to the largest of values and marks; a mark is an upright line of that CSS class."""
    top = max([*values, *marks.values()]) * 1.02 or 1.0
    counted = WIDTH - LEFT - RIGHT
    counts = [0] * bars
    for value in values:
        counts[min(bars - 1, max(0, int(value / top * bars)))] += 1
    wide, high = counted / bars, 100
    parts = []
    for i, count in enumerate(counts):
        tall = high * count / max(counts)
        tip = f"<title>{i * top / bars:.2f} - {(i + 1) * top / bars:.2f}: {count:,}</title>"
        parts.append(f'<rect class="warm" x="{LEFT + i * wide:.1f}" y="{high - tall:.1f}" width="{wide - 1:.1f}" ')
        parts.append(f'height="{tall:.1f}">{tip}</rect>')
    for name, value in marks.items():
        x = LEFT + value / top * counted
        parts.append(f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{high}"/>')
    for tick in ticks(0, top, 8):
        parts.append(
            f'<text x="{LEFT + tick / top * counted:.1f}" y="{high + 16}" text-anchor="middle">{tick:g}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {high + 20}" role="img">{"".join(parts)}</svg>'
