"""Paint pictures from conditioning, and score encoders by what their prompts paint."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from painter import reader, unet
from painter.drawable import Scene, chinese, english, held_out_scenes
from painter.reader import ATTRIBUTES
from trainer.models.student import Student
from trainer.report.tables import markdown_table
from zhclip.artifact import load

STEPS = 8
"""As good as 20."""
GUIDANCE = 1.25
"""The best of 1, 1.25, 1.5, 2, 3 and 5 on prompts of training."""

PROMPTS_SEED = 1

Encode = Callable[[list[str]], Tensor]
"""Prompts to conditioning (B, W, 384)."""


@torch.no_grad()
def paint(network: UNet2DConditionModel, conditioning: Tensor, empty: Tensor, seed: int = 0) -> NDArray[np.float32]:
    """Sample one picture a row by DDIM with classifier-free guidance.

    conditioning: (B, W, 384), in any window; empty: (1, W, 384), the encoder's empty prompt.
    Returns (B, 36, 36, 3), values 0..1.
    """
    schedule = unet.schedule()
    schedule.set_timesteps(STEPS)
    count = len(conditioning)
    size = (count, unet.CHANNELS, unet.LATENT, unet.LATENT)
    latents = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    both = torch.cat([conditioning.float(), empty.float().expand(count, -1, -1)])
    for time in schedule.timesteps:
        prompted, plain = network(torch.cat([latents, latents]), time, both).sample.chunk(2)
        latents = schedule.step(plain + GUIDANCE * (prompted - plain), time, latents).prev_sample
    return unet.to_pixels(latents).numpy()


def score_prompts(
    network: UNet2DConditionModel, encode: Encode, prompts: list[str], scenes: list[Scene], seed: int = 0
) -> dict[str, float]:
    """Paint prompts through an encoder; returns reader.score of the pictures against the scenes of the prompts."""
    return reader.score(paint(network, encode(prompts), encode([""]), seed), scenes)


def held_out_prompts() -> tuple[list[Scene], list[str]]:
    """100 scenes of held-out pairs, and their Chinese prompts."""
    rng, scenes = random.Random(PROMPTS_SEED), held_out_scenes(PROMPTS_SEED)
    scenes = [scene for scene in scenes if len(scene.groups) == 2]
    return scenes, [chinese(scene, rng) for scene in scenes]


def score_english(network: UNet2DConditionModel, scenes: list[Scene], encode: Encode) -> dict[str, dict[str, float]]:
    """Scores of the teacher itself by row: English prompts, the most that can be reached, and empty ones, the least."""
    empty = encode([""]).expand(len(scenes), -1, -1)
    return {
        "English, the teacher itself": score_prompts(network, encode, [*map(english, scenes)], scenes),
        "the empty prompt": score_prompts(network, lambda texts: empty[: len(texts)], [""] * len(scenes), scenes),
    }


def score_table(network: UNet2DConditionModel, aligned: Path, teacher: Path) -> str:
    """A Markdown table of the shares of attributes that are painted correctly through an aligned encoder's file, the
    teacher's, and by empty prompts; and the baselines of the loss."""
    scenes, prompts = held_out_prompts()
    report: dict[str, Any] = json.loads(aligned.with_name("report.json").read_text(encoding="utf-8"))
    ours = score_prompts(network, Student.from_artifact(load(aligned)).encode, prompts, scenes)
    scores = {"aligned": ours, **score_english(network, scenes, Student.from_artifact(load(teacher)).encode)}
    loss, recall = report["loss"]["all"], report["retrieval"]["zh_to_en"]["R@1"]
    rows = []
    for name, score in scores.items():
        metrics = [f"{loss:.3f}", f"{recall:.3f}"] if score is ours else ["-", "-"]
        shares = [f"{score[column]:.3f}" for column in ("attributes", "scenes", *ATTRIBUTES)]
        rows.append([name, *metrics, *shares])
    baselines = [f"{name} {zones['all']:.3f}" for name, zones in report["baselines"].items() if zones]
    table = markdown_table(rows, ["encoder", "loss", "R@1 zh to en", "held out", "whole scenes", *ATTRIBUTES])
    return f"{table}\n\nBaselines of the loss {loss:.3f}: {', '.join(baselines)}.\n"
