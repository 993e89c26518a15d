"""Paint pictures from conditioning, and score an encoder by what its prompts paint."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from painter import reader, unet
from painter.drawable import Prompt

STEPS = 20
GUIDANCE = 3.0

Encode = Callable[[list[str]], Tensor]
"""Prompts to conditioning (B, 24, 384)."""


def paint(
    network: UNet2DConditionModel,
    conditioning: Tensor,
    empty: Tensor,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Sample one picture a row by DDIM with classifier-free guidance.

    conditioning: (B, 24, 384); empty: (24, 384) or (1, 24, 384), the encoder's empty prompt.
    Returns (B, 16, 16, 3), values 0..1. ValueError for conditioning of another width or window.
    """
    if tuple(conditioning.shape[1:]) != (unet.WINDOW, unet.WIDTH):
        raise ValueError(
            f"The painter takes conditioning (B, {unet.WINDOW}, {unet.WIDTH}), got {tuple(conditioning.shape)}. "
            f"Align the encoder with --window {unet.WINDOW} to the teacher that the painter was trained on."
        )
    return unet.to_pixels(sample(network, unet.schedule(), conditioning, empty, steps, guidance, seed)).numpy()


@torch.no_grad()
def sample(
    network: UNet2DConditionModel,
    schedule: DDIMScheduler,
    conditioning: Tensor,
    empty: Tensor,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """Latents (B, C, H, W) of a network, from conditioning (B, W, D) and the empty prompt's, (W, D) or (1, W, D)."""
    schedule.set_timesteps(steps)
    count, side = len(conditioning), network.config.sample_size
    size = (count, network.config.in_channels, side, side)
    latents = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    both = torch.cat([conditioning.float(), empty.float().expand(count, -1, -1)])
    for time in schedule.timesteps:
        prompted, plain = network(torch.cat([latents, latents]), time, both).sample.chunk(2)
        latents = schedule.step(plain + guidance * (prompted - plain), time, latents).prev_sample
    return latents


def score_encoder(
    network: UNet2DConditionModel, encode: Encode, prompts: list[Prompt], language: str, seed: int = 0
) -> tuple[dict[str, float], NDArray[np.float32]]:
    """Paint every prompt in `zh` or `en` through an encoder; returns the shares of reader.score and the pictures."""
    texts = [prompt.zh if language == "zh" else prompt.en for prompt in prompts]
    pictures = paint(network, encode(texts), encode([""]), seed=seed)
    return reader.score(pictures, [prompt.scene for prompt in prompts]), pictures
