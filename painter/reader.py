"""Read a 36 x 36 picture of the drawable world by pixel arithmetic: which groups, where, on which background.

The picture is compared, cell by cell, with every scene that the renderer can draw; the nearest one (least squared
difference) is returned. No network is involved, and a clean picture is always read correctly.
"""

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

from painter.drawable import Group, Scene, words
from painter.picture import CELL, CELLS, COLUMNS, LIGHT, ROWS, SIDE, Pixels, canvas, draw, lines

GROUP = ("number", "size", "colour", "material", "shape")
ATTRIBUTES = (*GROUP, "where", "background")
WHERE = tuple(ROWS) + tuple(COLUMNS)


@cache
def looks() -> tuple[Group, ...]:
    """Every look that an object can have, as groups of one."""
    names = ("sizes", "colours", "materials", "shapes")
    return tuple(Group(1, *choice) for choice in itertools.product(*(words()[name] for name in names)))


@cache
def templates(background: str) -> NDArray[np.float32]:
    """A cell with each look in middling light, flat: (L, 432), the last row an empty cell."""
    cells = [canvas(background)[:CELL, :CELL] for _ in range(len(looks()) + 1)]
    for cell, look in zip(cells, looks(), strict=False):
        draw(cell, look)
    return np.stack(cells).reshape(len(cells), -1) * np.float32(1 - LIGHT / 2)


def differences(picture: Pixels, background: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Squared difference of each cell from each look (3, 3, L), and from an empty cell (3, 3)."""
    cells = picture.reshape(SIDE, CELL, SIDE, CELL, 3).swapaxes(1, 2).reshape(SIDE * SIDE, -1)
    known = templates(background)
    squared = (cells**2).sum(1, keepdims=True) - 2 * cells @ known.T + (known**2).sum(1)  # |a - b| squared
    squared = squared.reshape(SIDE, SIDE, -1)
    return squared[..., :-1], squared[..., -1]


def group_on(
    line: list[tuple[int, int]], to_looks: NDArray[np.float32], empty: NDArray[np.float32]
) -> tuple[float, Group]:
    """The group that a line of cells shows best, and how much nearer it is than three empty cells."""
    candidates = []
    for count, places in CELLS.items():
        cost = sum(to_looks[line[i]] - empty[line[i]] for i in places)
        best = int(np.argmin(cost))
        candidates.append((float(cost[best]), looks()[best]._replace(number=count)))
    return min(candidates)


def read_picture(picture: Pixels) -> Scene:
    """The scene that a picture (36, 36, 3), values 0..1, shows best."""
    readings = []
    for background in words()["backgrounds"]:
        to_looks, empty = differences(picture, background)
        for where in WHERE:
            costs_and_groups = [group_on(line, to_looks, empty) for line in lines(where)]
            groups = [group for _, group in costs_and_groups]
            if len({group.thing for group in groups}) < len(groups):
                continue  # no scene has two groups of one object: this is one group, seen as two
            scene = Scene(tuple(groups), where, background)
            readings.append((float(empty.sum()) + sum(cost for cost, _ in costs_and_groups), scene))
    return min(readings, key=lambda reading: reading[0])[1]


def compare_scenes(shown: Scene, wanted: Scene) -> list[tuple[str, bool]]:
    """For each attribute of the wanted scene, whether it is shown; none is of a missing group."""
    right = [("where", shown.where == wanted.where), ("background", shown.background == wanted.background)]
    for expected, actual in itertools.zip_longest(wanted.groups, shown.groups[: len(wanted.groups)]):
        right += [(name, actual is not None and getattr(expected, name) == getattr(actual, name)) for name in GROUP]
    return right


def score(pictures: NDArray[np.float32], wanted: list[Scene]) -> dict[str, float]:
    """Share of each attribute right over pictures (B, 36, 36, 3); `attributes`: all, `scenes`: wholly right."""
    compared = [compare_scenes(read_picture(picture), scene) for picture, scene in zip(pictures, wanted, strict=True)]
    every = [one for right in compared for one in right]
    shares = {name: float(np.mean([good for attribute, good in every if attribute == name])) for name in ATTRIBUTES}
    whole = [all(good for _, good in right) for right in compared]
    return {**shares, "attributes": float(np.mean([good for _, good in every])), "scenes": float(np.mean(whole))}
