"""Paint pictures from conditioning, and score an encoder by what its prompts paint."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from painter import reader, unet
from painter.drawable import Scene

STEPS = 8
"""As good as 20."""
GUIDANCE = 1.25
"""The best of 1, 1.25, 1.5, 2, 3 and 5 on prompts of training."""

Encode = Callable[[list[str]], Tensor]
"""Prompts to conditioning (B, W, 384)."""


@torch.no_grad()
def paint(network: UNet2DConditionModel, conditioning: Tensor, empty: Tensor, seed: int = 0) -> NDArray[np.float32]:
    """Sample one picture a row by DDIM with classifier-free guidance.

    conditioning: (B, W, 384), in any window; empty: (1, W, 384), the encoder's empty prompt.
    Returns (B, 36, 36, 3), values 0..1. ValueError for conditioning of another width.
    """
    if conditioning.shape[-1] != unet.WIDTH:
        raise ValueError(
            f"The painter takes conditioning of width {unet.WIDTH}, got {tuple(conditioning.shape)}. "
            "Align the encoder to the teacher that the painter was trained on."
        )
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
