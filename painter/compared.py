"""The comparison of `python -m trainer compare` with the painter for an SD1.5, and its teacher for the CLIP.

python -m painter.compared --english FILE --encoders A,B,... [--prompts 6] [--seeds 0,1,2] --out DIR

FILE is the painter's teacher as an artifact, which reads the English side and is what the encoders are held against.
Writes the pictures, grids, figures and page of that stage for held-out prompts.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from painter import unet
from painter.drawable import held_out_prompts
from painter.host import SHOWN
from painter.paint import GUIDANCE, STEPS
from trainer.base import CompareSettings
from trainer.encoders import Student
from trainer.pictures import ENGLISH, Cell, Conditionings, Prompt, cells, file_sha256, rows
from trainer.pictures import stage as compare
from zhclip.artifact import load

PIXELS = 24
"""Of a latent's side by the reckoning of SD1.5, 8 for each of its 3 positions."""


class PixelVae(torch.nn.Module):
    """Stands where SD1.5's VAE stands: the painter's latent is a folded picture, whose pixels are shown as squares."""

    config = SimpleNamespace(block_out_channels=(1, 1, 1, 1), scaling_factor=1.0, force_upcast=False, latent_channels=0)
    dtype, device = torch.float32, torch.device("cpu")

    def decode(self, latents: Tensor, return_dict: bool, generator: Any) -> tuple[Tensor]:
        """(B, 432, 3, 3) to (B, 3, 288, 288) in -1..1."""
        pixels = unet.to_pixels(latents).movedim(-1, 1)
        return (pixels.repeat_interleave(SHOWN, 2).repeat_interleave(SHOWN, 3) * 2 - 1,)


def pipeline() -> StableDiffusionPipeline:
    """The painter as diffusers' pipeline of SD1.5, without a text encoder."""
    made = StableDiffusionPipeline(
        vae=PixelVae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet.load(),
        scheduler=unet.schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def conditionings(english: Path, wanted: Iterable[Cell]) -> Conditionings:
    """What each cell's encoder makes of its text and of the empty prompt, (40, 384) each."""
    found: Conditionings = {}
    encoders: dict[str, Student] = {}
    for cell in wanted:
        name = cell.row.encoder
        if name not in encoders:
            encoders[name] = Student.from_artifact(load(english if name == ENGLISH else name))
        found |= {(name, text): encoders[name].encode([text])[0].float() for text in (cell.text, "")}
    return found


def run(english: Path, encoders: str, count: int, seeds: str, out: Path) -> dict[str, Any]:
    """Paint what is missing of the first `count` held-out prompts, and write the outcome; returns the figures."""
    settings = CompareSettings(
        checkpoint="painter",
        encoders=encoders,
        seeds=seeds,
        steps=STEPS,
        guidance=GUIDANCE,
        width=PIXELS,
        height=PIXELS,
        out=str(out),
    )
    prompts = [Prompt(prompt.zh, prompt.en) for prompt in held_out_prompts()[:count]]
    digest = file_sha256(unet.WEIGHTS)
    made = rows(settings, False, digest)
    shared = compare.common(settings, digest, -1)
    every = cells(settings, prompts, made, shared)
    work = compare.missing(out, every)
    if work:
        known = conditionings(english, compare.needed(every, work))
        compare.paint_cells(out, every, work, known, pipeline())
    return compare.write_outcome(None, out, shared, prompts, made, every)


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.compared", description=__doc__.partition("\n")[0])
    parser.add_argument("--english", type=Path, required=True, help="the painter's teacher as an artifact")
    parser.add_argument("--encoders", required=True, help="artifacts, between commas")
    parser.add_argument("--prompts", type=int, default=6, help="so many held-out prompts")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the starting noise, between commas")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures and the page")
    options = parser.parse_args(arguments)
    try:
        run(options.english, options.encoders, options.prompts, options.seeds, options.out)
    except (OSError, ValueError) as error:
        sys.exit(f"compared: {error}")


if __name__ == "__main__":
    main()
