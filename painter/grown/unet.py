"""The grown painter's network: SD1.5's arrangement at 5 million parameters, on folded pixels."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from painter.grown.picture import SIZE

WINDOW = 40
WIDTH = 384
FOLD = 3
"""A latent holds squares of 3 x 3 pixels, so that its third level has the picture's 3 x 3 cells."""
CHANNELS, LATENT = 3 * FOLD * FOLD, SIZE // FOLD


def build() -> UNet2DConditionModel:
    """The network: latents (B, 27, 12, 12), step (B,), text (B, 40, 384) to velocity (B, 27, 12, 12)."""
    network = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # By its parts: torch's fused attention goes backward slowly in bf16 on a CPU (benchmarks/attention.py).
    network.set_attn_processor(AttnProcessor())
    return network


def to_latent(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, 36, 36) in 0..1 as a latent (B, 27, 12, 12)."""
    return pixel_unshuffle(pixels * 2 - 1, FOLD)


def to_pixels(latent: Tensor) -> Tensor:
    """A latent (B, 27, 12, 12) as pixels (B, 3, 36, 36) in 0..1."""
    return (pixel_shuffle(latent, FOLD) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def fold(network: UNet2DConditionModel, mean: Tensor, deviation: Tensor) -> None:
    """Make a network that was trained on (states - mean) / deviation, both (384,), read the states themselves.

    A constant in every key shifts all of a query's scores alike, which the softmax does not see; one in every value
    comes out as itself, and is taken from the bias that follows.
    """
    for name, module in network.named_modules():
        if name.endswith("attn2"):
            module.to_k.weight /= deviation
            module.to_v.weight /= deviation
            module.to_out[0].bias -= module.to_out[0].weight @ (module.to_v.weight @ mean)
