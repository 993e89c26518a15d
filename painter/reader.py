"""Read a 16 x 16 picture of the drawable world by pixel arithmetic: which objects, relation and background it shows.

Every picture that the renderer can make is compared, half by half, and the nearest (least squared difference) is
what the picture is said to show. No network is involved, and a clean picture is always read rightly.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from painter.drawable import Scene, Thing, english, grammar, things
from painter.picture import SIZE, Pixels, canvas, corners, put


class Attributes(NamedTuple):
    """Which attributes of a scene a picture shows rightly."""

    first_colour: bool
    first_shape: bool
    second_colour: bool
    second_shape: bool
    relation: bool
    background: bool


def half(picture: Pixels, relation: str, place: int) -> Pixels:
    """The half of a picture where the first (place 0) or second (place 1) object of a relation stands, flat."""
    area = slice(place * SIZE // 2, (place + 1) * SIZE // 2)
    return (picture[area] if relation == "above" else picture[:, area]).reshape(-1)


@cache
def templates(relation: str, background: str, place: int) -> tuple[NDArray[np.float32], tuple[Thing, ...]]:
    """Every half picture that may be there (T, 384), and the object in each."""
    rows, shown = [], []
    for thing in things():
        for corner in corners(relation, place):
            picture = canvas(background)
            put(picture, thing, corner)
            rows.append(half(picture, relation, place))
            shown.append(thing)
    return np.stack(rows), tuple(shown)


def nearest(picture: Pixels, relation: str, background: str, place: int) -> tuple[float, Thing]:
    """Squared difference and object of the template nearest to a half of the picture."""
    known, shown = templates(relation, background, place)
    differences = ((known - half(picture, relation, place)) ** 2).sum(1)
    best = int(differences.argmin())
    return float(differences[best]), shown[best]


def read(picture: Pixels) -> Scene:
    """The scene that a picture (16, 16, 3), values 0..1, shows best. ValueError for another shape."""
    if picture.shape != (SIZE, SIZE, 3):
        raise ValueError(f"Cannot read a picture of shape {picture.shape}: expected ({SIZE}, {SIZE}, 3), values 0..1.")
    words = grammar()["drawable"]
    readings = []
    for relation in words["relations"]:
        for background in words["backgrounds"]:
            first, first_thing = nearest(picture, relation, background, 0)
            second, second_thing = nearest(picture, relation, background, 1)
            readings.append((first + second, Scene(first_thing, second_thing, relation, background)))
    return min(readings)[1]


def compare(shown: Scene, wanted: Scene) -> Attributes:
    """Attribute by attribute, whether what is shown is what was wanted."""
    return Attributes(
        shown.first.colour == wanted.first.colour,
        shown.first.shape == wanted.first.shape,
        shown.second.colour == wanted.second.colour,
        shown.second.shape == wanted.second.shape,
        shown.relation == wanted.relation,
        shown.background == wanted.background,
    )


def score(pictures: NDArray[np.float32], wanted: list[Scene]) -> dict[str, float]:
    """Share of each attribute right over pictures (B, 16, 16, 3); `attributes`: their mean, `scenes`: all right."""
    right = np.array([compare(read(picture), scene) for picture, scene in zip(pictures, wanted, strict=True)])
    shares = dict(zip(Attributes._fields, right.mean(0).tolist(), strict=True))
    return {**shares, "attributes": float(right.mean()), "scenes": float(right.all(1).mean())}


def describe(scene: Scene) -> str:
    """A scene in plain English."""
    return english(scene, 0)
