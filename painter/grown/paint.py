"""Paint pictures of the grown world, and score an encoder by what its prompts paint."""

import numpy as np
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from painter.grown import reader, unet
from painter.grown.drawable import Prompt
from painter.paint import Encode, sample

STEPS = 8
"""They paint as well as 20."""
GUIDANCE = 1.25
"""Of 1, 1.25, 1.5, 2, 3 and 5 the best on prompts of training: a network that answers clean pixels overshoots soon."""


def paint(
    network: UNet2DConditionModel, conditioning: Tensor, empty: Tensor, seed: int = 0, guidance: float = GUIDANCE
) -> NDArray[np.float32]:
    """Sample one picture (36, 36, 3), values 0..1, for each row of (B, 40, 384), against the empty prompt's."""
    return unet.to_pixels(sample(network, unet.schedule(), conditioning, empty, STEPS, guidance, seed)).numpy()


def score_encoder(
    network: UNet2DConditionModel, encode: Encode, prompts: list[Prompt], language: str, seed: int = 0
) -> dict[str, float]:
    """Paint every prompt in `zh` or `en` through an encoder; returns the shares of reader.score."""
    texts = [prompt.zh if language == "zh" else prompt.en for prompt in prompts]
    return reader.score(paint(network, encode(texts), encode([""]), seed), [prompt.scene for prompt in prompts])
