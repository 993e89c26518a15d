"""Pictures of the drawable world: a scene as 16 x 16 RGB."""

import random

import numpy as np
from numpy.typing import NDArray

from painter.drawable import Scene, Thing

SIZE = 16
SHAPE_SIZE = 7

COLOURS = {
    "red": (220, 30, 40),
    "green": (30, 170, 60),
    "blue": (35, 80, 225),
    "yellow": (250, 225, 40),
    "purple": (150, 45, 190),
    "orange": (250, 135, 15),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (15, 15, 15)}
MASKS = {
    "circle": "..###.. .#####. ####### ####### ####### .#####. ..###..",
    "square": "####### ####### ####### ####### ####### ####### #######",
    "triangle": "...#... ...#... ..###.. ..###.. .#####. .#####. #######",
    "cross": "..###.. ..###.. ####### ####### ####### ..###.. ..###..",
}
ALONG = (0, 1)
"""Where an object may start in its half, along the axis of the relation (pixels)."""
ACROSS = (4, 5)
"""Where an object may start across that axis (pixels)."""

Pixels = NDArray[np.float32]


def mask(shape: str) -> NDArray[np.bool_]:
    """The pixels (7, 7) that a shape covers."""
    return np.array([[pixel == "#" for pixel in row] for row in MASKS[shape].split()])


def canvas(background: str) -> Pixels:
    """An empty picture (16, 16, 3), values 0..1."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = np.array(BACKGROUNDS[background], np.float32) / 255
    return picture


def put(picture: Pixels, thing: Thing, corner: tuple[int, int]) -> None:
    """Draw an object into a picture; `corner` is its top row and left column."""
    row, column = corner
    area = picture[row : row + SHAPE_SIZE, column : column + SHAPE_SIZE]
    area[mask(thing.shape)] = np.array(COLOURS[thing.colour], np.float32) / 255


def corners(relation: str, place: int) -> list[tuple[int, int]]:
    """Where the first (place 0) or the second (place 1) object of a relation may stand."""
    spots = [(place * SIZE // 2 + along, across) for along in ALONG for across in ACROSS]
    return spots if relation == "above" else [(across, along) for along, across in spots]


def render(scene: Scene, rng: random.Random) -> Pixels:
    """Paint a scene (16, 16, 3), values 0..1; `rng` chooses where the objects stand."""
    picture = canvas(scene.background)
    for place, thing in enumerate((scene.first, scene.second)):
        put(picture, thing, rng.choice(corners(scene.relation, place)))
    return picture
