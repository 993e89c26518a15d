"""What a weight on a colour does to paintings: the colour's own share that is right, and all other attributes'.

python benchmarks/painted_weights.py --encoder FILE --english FILE [--prompts 150]

FILE are artifacts of 40 positions, an aligned encoder and the painter's teacher (`make demo` writes both). Prompts are
random scenes of two groups, none held out; in each the first group's colour gets the weight. Prints a table: by
contrast, which is what the nodes do, and by position, ComfyUI's rule for CLIP, in Chinese; in English by position.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from diffusers import UNet2DConditionModel
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import sides, weighted  # noqa: E402 - the project is not installed
from painter import drawable, paint, reader, unet  # noqa: E402
from painter.figures import markdown  # noqa: E402
from trainer.encoders import Student  # noqa: E402
from zhclip.artifact import load  # noqa: E402
from zhclip.emphasis import runs  # noqa: E402
from zhclip.prompt import normalise  # noqa: E402
from zhclip.tokens import Window  # noqa: E402

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
SEED = 11


def window(encoder: Student, text: str, word: str) -> Window | None:
    """The prompt with a weight on a word; None where the word has no token of its own, or stands there twice."""
    plain, word = normalise(text), normalise(word)
    if plain.count(word) != 1:
        return None
    place = (plain.index(word), plain.index(word) + len(word))
    (found,) = encoder.tokens.weighted_windows(weighted.weighted(plain, place, 2.0))
    return found if runs(found.weights) else None


def cases(chinese: Student, english: Student) -> Iterator[tuple[drawable.Scene, Window, Window]]:
    """Endless prompts, in both languages, whose first group's colour can be weighted."""
    rng = random.Random(SEED)
    while True:
        said = drawable.prompt(drawable.random_scene(rng, kept=False), rng)
        if said.scene.second is None or said.scene.second.colour == said.scene.first.colour:
            continue
        colour = said.scene.first.colour
        form = max((word for word in drawable.words()["colours"][colour][0] if word in said.zh), key=len)
        zh, en = window(chinese, said.zh, form), window(english, said.en, colour)
        if zh and en:
            yield said.scene, zh, en


def shares(
    network: UNet2DConditionModel, conditioning: Tensor, empty: Tensor, scenes: list[drawable.Scene]
) -> tuple[float, float]:
    """Of pictures of a conditioning (N, 40, 384): how many first colours are right, and which share of all else."""
    shown = [reader.read(picture) for picture in paint.paint(network, conditioning, empty)]
    own = [a.first.colour == b.first.colour for a, b in zip(shown, scenes)]
    every = [good for a, b in zip(shown, scenes) for _, good in reader.compare(a, b)]
    return float(np.mean(own)), (sum(every) - sum(own)) / (len(every) - len(own))


def table(encoder: Path, teacher: Path, count: int) -> str:
    """The table, in Markdown: of each way and weight, the colour's share and all else's."""
    chinese, english = (Student.from_artifact(load(path)) for path in (encoder, teacher))
    scenes, zh, en = map(list, zip(*(found for found, _ in zip(cases(chinese, english), range(count)))))
    zh_side, en_side = sides.Side.of(chinese, zh), sides.Side.of(english, en)
    ways = {
        "Chinese, by contrast (ours)": (zh_side, zh_side.by_contrast),
        "Chinese, by position": (zh_side, zh_side.by_position),
        "English, by position": (en_side, en_side.by_position),
    }
    network, lines = unet.load(), []
    for name, (side, way) in ways.items():
        found = [shares(network, way(weight), side.empty, scenes) for weight in WEIGHTS]
        lines.append([name, *(f"{own:.2f} / {other:.2f}" for own, other in found)])
    return markdown(["colour right / all else right", *(f"weight {weight:g}" for weight in WEIGHTS)], lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", type=Path, required=True, help="an artifact aligned to the painter's teacher")
    parser.add_argument("--english", type=Path, required=True, help="the teacher as an artifact")
    parser.add_argument("--prompts", type=int, default=150, help="so many prompts")
    options = parser.parse_args(arguments)
    print(table(options.encoder, options.english, options.prompts))


if __name__ == "__main__":
    main()
