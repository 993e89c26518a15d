"""The painter's network, latents and noise schedule: one level of SD1.5's UNet at 4 million parameters."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

WINDOW = 40
"""Positions of the conditioning in training. The painter paints as well from 24."""
WIDTH = 384
FOLD, LATENT = 12, 3
"""A latent has a position for each of the picture's 3 x 3 cells, of 12 x 12 pixels. With squares of 3 x 3 pixels the
network learns at half the rate. The numbers are picture.py's, which ComfyUI cannot import."""
CHANNELS = 3 * FOLD * FOLD
WEIGHTS = Path(__file__).with_name("weights.safetensors")


def build() -> UNet2DConditionModel:
    """The network: latents (B, 432, 3, 3), step (B,), text (B, 40, 384) to clean latents (B, 432, 3, 3)."""
    network = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        conv_in_kernel=1,
        conv_out_kernel=1,
        layers_per_block=1,
        block_out_channels=(128,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # Unfused attention: the backward pass of torch's fused one is slow in bf16 on a CPU (zhclip/bert.py).
    network.set_attn_processor(AttnProcessor())
    return network


def schedule() -> DDIMScheduler:
    """SD1.5's noise schedule, so that ComfyUI's own samplers fit; the network predicts the clean latent.

    Noise has 432 independent numbers at each position, more than a network of 128 channels can carry.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def to_latent(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, 36, 36) in 0..1 as a latent (B, 432, 3, 3)."""
    return pixel_unshuffle(pixels * 2 - 1, FOLD)


def to_pixels(latent: Tensor) -> Tensor:
    """A latent (B, 432, 3, 3) as pixels (B, 36, 36, 3) in 0..1."""
    return (pixel_shuffle(latent, FOLD) / 2 + 0.5).clamp(0, 1).movedim(1, -1)


@torch.no_grad()
def absorb(network: UNet2DConditionModel, mean: Tensor, deviation: Tensor) -> None:
    """Change a network that was trained on (states - mean) / deviation, both (384,), to take the states themselves.

    A constant in every key shifts all of a query's scores equally, which softmax ignores; one in every value is added
    to the output, and is subtracted from the bias that follows.
    """
    for name, module in network.named_modules():
        if name.endswith("attn2"):
            module.to_k.weight /= deviation
            module.to_v.weight /= deviation
            module.to_out[0].bias -= module.to_out[0].weight @ (module.to_v.weight @ mean)


def load(path: Path = WEIGHTS) -> UNet2DConditionModel:
    """The trained network, fp32, in evaluation mode. FileNotFoundError says how to make the file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No painter weights at {path}. Make them: python -m painter.train --teacher DIR --out {path}"
        )
    network = build()
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(path).items()})
    return network.eval()
