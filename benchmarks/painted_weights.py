"""Prompt weights by contrast beside ComfyUI's by position: python -m benchmarks.painted_weights --encoder F --english F

What a weight on a colour does to the painter's pictures: the share in which that colour is right, and the share of all
other attributes. The files are artifacts, an aligned encoder and the painter's teacher (`make demo` writes both). The
prompts are random scenes of two groups; the weight is on the first group's colour. By contrast is what the nodes do, by
position ComfyUI's rule for CLIP, in Chinese and in English.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from painter import drawable, paint, reader, unet
from painter.figures import markdown
from trainer.encoders import Student
from zhclip.artifact import load
from zhclip.emphasis import combine, rows, runs
from zhclip.prompt import normalise
from zhclip.tokens import Window

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
SEED = 11


def encoded(encoder: Student, windows: Sequence[Window]) -> Tensor:
    """Every window, with and without its weighted tokens, as emphasis.rows has them: (2 N, W, D)."""
    todo = rows(windows)
    hidden = torch.tensor([[at in row.hidden for at in range(len(row.ids))] for row in todo])
    return encoder.encode_ids(torch.tensor([row.ids for row in todo]), hidden)


def by_contrast(z: Tensor, empty: Tensor, windows: Sequence[Window], weight: float) -> Tensor:
    """What the nodes compute of such encodings: (N, W, D)."""
    weights = [[weight if own != 1.0 else 1.0 for own in window.weights] for window in windows]
    return combine(z, [replace(window, weights=own) for window, own in zip(windows, weights)])


def by_position(z: Tensor, empty: Tensor, windows: Sequence[Window], weight: float) -> Tensor:
    """(z - empty) * weight + empty at the weighted tokens, comfy.sd1_clip's rule for CLIP: (N, W, D)."""
    marked = torch.tensor([[own != 1.0 for own in window.weights] for window in windows])
    whole = z[: len(windows)]
    return torch.where(marked[..., None], (whole - empty) * weight + empty, whole)


def window(encoder: Student, text: str, word: str) -> Window | None:
    """The prompt with a weight on a word; None where the word has no token of its own, or stands there twice."""
    text, word = normalise(text), normalise(word)
    if text.count(word) != 1:
        return None
    (found,) = encoder.tokens.weighted_windows(text.replace(word, f"({word}:2)"))
    return found if runs(found.weights) else None


def cases(chinese: Student, english: Student) -> Iterator[tuple[drawable.Scene, Window, Window]]:
    """Endless prompts, in both languages, whose first group's colour can be weighted."""
    rng = random.Random(SEED)
    while True:
        said = drawable.prompt(drawable.random_scene(rng, kept=False), rng)
        colour = said.scene.first.colour
        if said.scene.second is None or said.scene.second.colour == colour:
            continue
        form = max((word for word in drawable.words()["colours"][colour][0] if word in said.zh), key=len)
        zh, en = window(chinese, said.zh, form), window(english, said.en, colour)
        if zh and en:
            yield said.scene, zh, en


def shares(
    network: UNet2DConditionModel, conditioning: Tensor, empty: Tensor, scenes: Sequence[drawable.Scene]
) -> tuple[float, float]:
    """Of pictures of a conditioning (N, W, D): how many first colours are right, and which share of all else."""
    shown = [reader.read(picture) for picture in paint.paint(network, conditioning, empty)]
    own = [a.first.colour == b.first.colour for a, b in zip(shown, scenes)]
    every = [good for a, b in zip(shown, scenes) for _, good in reader.compare(a, b)]
    return float(np.mean(own)), (sum(every) - sum(own)) / (len(every) - len(own))


def table(encoder: Path, teacher: Path, count: int) -> str:
    """Of each way and weight, the colour's share and all else's, as a table in Markdown."""
    chinese, english = (Student.from_artifact(load(path)) for path in (encoder, teacher))
    scenes, zh, en = map(list, zip(*itertools.islice(cases(chinese, english), count)))
    ways = {
        "Chinese, by contrast (ours)": (chinese, zh, by_contrast),
        "Chinese, by position": (chinese, zh, by_position),
        "English, by position": (english, en, by_position),
    }
    network, lines = unet.load(), []
    for name, (side, windows, way) in ways.items():
        z, empty = encoded(side, windows), side.encode([""])[0]
        found = [shares(network, way(z, empty, windows, weight), empty, scenes) for weight in WEIGHTS]
        lines.append([name, *(f"{own:.2f} / {other:.2f}" for own, other in found)])
    return markdown(["colour right / all else right", *(f"weight {weight:g}" for weight in WEIGHTS)], lines)


def main() -> None:
    """Paint and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True, help="an artifact aligned to the painter's teacher")
    parser.add_argument("--english", type=Path, required=True, help="the teacher as an artifact")
    parser.add_argument("--prompts", type=int, default=150)
    given = parser.parse_args()
    print(table(given.encoder, given.english, given.prompts))


if __name__ == "__main__":
    main()
