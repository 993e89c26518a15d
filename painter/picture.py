"""Pictures of the drawable world: a scene as 36 x 36 RGB.

A picture has 3 x 3 cells of 12 x 12 pixels. A group stands in one row or column of them: one object in the middle cell,
two in the outer cells, three in all. A material is a texture: wooden, rows; metal, bright diagonals; glass, a sieve;
wool, checks. The shapes are drawn in shapes.txt, small and big.
"""

import random
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from painter.drawable import Group, Scene

CELL, SIDE = 12, 3
SIZE = CELL * SIDE
SHAPES = Path(__file__).with_name("shapes.txt")
COLOURS = {
    "red": (220, 30, 40),
    "orange": (250, 135, 15),
    "yellow": (250, 225, 40),
    "green": (30, 170, 60),
    "blue": (35, 80, 225),
    "purple": (140, 40, 190),
    "pink": (250, 150, 200),
    "brown": (120, 70, 30),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (15, 15, 15), "teal": (10, 120, 125)}
CELLS = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}
"""Which cells of its row or column a group of so many objects stands in."""
LIGHT = 0.1
"""All values of a picture are multiplied by a random number from 1 - LIGHT to 1."""
ROWS = {"above": (0, 2), "in the center": (1,), "at the top": (0,), "at the bottom": (2,)}
COLUMNS = {"left of": (0, 2), "on the left": (0,), "on the right": (2,)}
"""The rows or columns where the groups of a relation, or the one group of a place, stand."""

Pixels = NDArray[np.float32]


@cache
def masks() -> dict[tuple[str, str], NDArray[np.bool_]]:
    """The pixels that a shape of a size covers, by (shape, size): (7, 7) small, (11, 11) big."""
    masks_by_name = {}
    for block in SHAPES.read_text(encoding="ascii").strip().split("\n\n"):
        name, *rows = block.splitlines()
        shape, size = name.split()
        masks_by_name[shape, size] = np.array([[pixel == "#" for pixel in row] for row in rows])
    return masks_by_name


def draw(cell: Pixels, group: Group) -> None:
    """Draw one object of a group into the middle of a cell (12, 12, 3), values 0..1."""
    mask = masks()[group.shape, group.size]
    start, end = (CELL - len(mask)) // 2, (CELL + len(mask)) // 2
    area, colour = cell[start:end, start:end], np.array(COLOURS[group.colour], np.float32) / 255
    row, column = np.indices(mask.shape)
    if group.material == "glass":
        mask = mask & ((row + column) % 2 > 0)
    area[mask] = colour
    if group.material == "wooden":
        area[mask & (row % 4 > 1)] = colour * 0.45
    if group.material == "metal":
        area[mask & ((row + column) % 4 > 1)] = colour * 0.35 + 0.65
    if group.material == "wool":
        area[mask & ((row // 2 + column // 2) % 2 > 0)] = colour * 0.45


def canvas(background: str) -> Pixels:
    """An empty picture (36, 36, 3), values 0..1."""
    return np.tile(np.array(BACKGROUNDS[background], np.float32) / 255, (SIZE, SIZE, 1))


def lines(where: str) -> list[list[tuple[int, int]]]:
    """For each group of a relation or place, the three cells (row, column) of its line."""
    if where in ROWS:
        return [[(row, i) for i in range(SIDE)] for row in ROWS[where]]
    return [[(i, column) for i in range(SIDE)] for column in COLUMNS[where]]


def render(scene: Scene, rng: random.Random) -> Pixels:
    """Paint a scene (36, 36, 3), values 0..1; `rng` chooses its light."""
    picture = canvas(scene.background)
    for group, line in zip(scene.groups, lines(scene.where), strict=True):
        for row, column in (line[i] for i in CELLS[group.number]):
            draw(picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL], group)
    return picture * np.float32(1 - LIGHT * rng.random())
