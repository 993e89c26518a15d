"""One picture of the demonstration: paintings side by side, each with its prompt above and its reading below."""

import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from pylopdf_fonts_zh_cn import sans_path

from painter.drawable import words

INK, FAINT = "#1d2330", "#6b7280"
LABEL_WIDTH = 46


class Painting(NamedTuple):
    """One panel: the prompt, the encoder it went through, the picture and its reading.

    encoder: a key of words.json's `poster`; picture: (H, W, 3) in 0..1; shows: what the reader of pictures sees in it.
    """

    prompt: str
    encoder: str
    picture: NDArray[np.float32]
    shows: str


def font(size: float) -> FontProperties:
    """Noto Sans SC, which has both languages: few systems come with a Chinese font."""
    return FontProperties(fname=str(sans_path()), size=size)


def show(axes: Axes, painting: Painting) -> None:
    """One painting."""
    axes.imshow(painting.picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    prompt = "\n".join(textwrap.wrap(painting.prompt, LABEL_WIDTH))
    title = f"{words()['poster'][painting.encoder]}\n{prompt}"
    axes.set_title(title, fontproperties=font(12), color=INK, linespacing=1.6)
    axes.set_xlabel("\n".join(textwrap.wrap(painting.shows, LABEL_WIDTH)), fontproperties=font(10.5), color=FAINT)


def compose(paintings: list[Painting], path: Path) -> None:
    """Write the picture as PNG."""
    figure = Figure(figsize=(5 * len(paintings), 6), dpi=100, facecolor="white", layout="constrained")
    for axes, painting in zip(figure.subplots(1, len(paintings), squeeze=False)[0], paintings, strict=True):
        show(axes, painting)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
