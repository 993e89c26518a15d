"""One picture of the demonstration: paintings with their prompts, beside a heat map of captions against captions."""

import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from pylopdf_fonts_zh_cn import sans_path

from painter.captions import grammar

INK, FAINT = "#1d2330", "#6b7280"
LABEL_WIDTH = 46


class Painting(NamedTuple):
    """One panel: the prompt, the encoder it went through, the picture and its reading.

    encoder: a key of scenes.json's `poster`; picture: (H, W, 3) in 0..1; shows: what the reader of pictures sees in it.
    """

    prompt: str
    encoder: str
    picture: NDArray[np.float32]
    shows: str


class Heat(NamedTuple):
    """Similarity (N, N) of N Chinese captions, one a row, and their N translations, one a column."""

    zh: list[str]
    en: list[str]
    similarity: NDArray[np.float32]


def font(size: float) -> FontProperties:
    """Noto Sans SC, which has both languages: few systems come with a Chinese font."""
    return FontProperties(fname=str(sans_path()), size=size)


def show_painting(axes: Axes, painting: Painting) -> None:
    """One painting, its encoder and prompt above, its reading below."""
    axes.imshow(painting.picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    label = grammar()["poster"][painting.encoder]
    axes.set_title(f"{label}\n{painting.prompt}", fontproperties=font(11), color=INK, linespacing=1.5)
    axes.set_xlabel("\n".join(textwrap.wrap(painting.shows, LABEL_WIDTH)), fontproperties=font(9.5), color=FAINT)


def show_heat(figure: Figure, axes: Axes, heat: Heat) -> None:
    """The heat map, with a dot on the brightest cell of each row."""
    words = grammar()["poster"]
    rows = np.arange(len(heat.zh))
    best = heat.similarity.argmax(1)
    image = axes.imshow(heat.similarity, cmap="viridis", vmin=-0.3, vmax=1)
    axes.scatter(best, rows, s=14, color="white", edgecolors=INK, linewidths=0.5)
    axes.set_yticks(rows, heat.zh, fontproperties=font(9), color=INK)
    axes.set_xticks(rows, heat.en, fontproperties=font(9), color=INK, rotation=45, ha="right", rotation_mode="anchor")
    found = words["found"].format(found=int((best == rows).sum()), count=len(rows))
    axes.set_title(f"{words['heat']}\n{found}", fontproperties=font(12), color=INK, linespacing=1.5)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)


def compose(paintings: list[Painting], heat: Heat, path: Path) -> None:
    """Write the picture as PNG: paintings in a column on the left, the heat map on the right."""
    figure = Figure(figsize=(17, 11.5), dpi=100, facecolor="white", layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 2.6))[0]
    for axes, painting in zip(left.subplots(len(paintings), 1, squeeze=False)[:, 0], paintings, strict=True):
        show_painting(axes, painting)
    show_heat(figure, right.subplots(), heat)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
