"""The painter's network and noise schedule: SD1.5's arrangement at 2.7 million parameters, straight on pixels."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

WINDOW = 24
WIDTH = 384
WEIGHTS = Path(__file__).with_name("weights.safetensors")


def build() -> UNet2DConditionModel:
    """The network: pixels (B, 3, 16, 16) in -1..1, step (B,), text (B, 24, 384) to velocity (B, 3, 16, 16)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(48, 96),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def schedule(predicts: str = "v_prediction") -> DDIMScheduler:
    """SD1.5's noise schedule, so that ComfyUI's own samplers fit; velocity is better posed at the noisy end."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=predicts,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def to_pixels(latents: Tensor) -> Tensor:
    """What the network paints, (B, 3, 16, 16) in -1..1, as pixels (B, 16, 16, 3) in 0..1."""
    return (latents / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def save(network: UNet2DConditionModel, path: Path) -> None:
    """Write the weights as fp16."""
    tensors = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def load(path: Path = WEIGHTS) -> UNet2DConditionModel:
    """The trained network, fp32, in evaluation mode. FileNotFoundError says how to make the file."""
    return load_into(build(), path, "painter.train")


def load_into(network: UNet2DConditionModel, path: Path, maker: str) -> UNet2DConditionModel:
    """Fill a network from its file. FileNotFoundError names the module that makes it."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No painter weights at {path}. Make them: python -m {maker} --teacher DIR --out {path}"
        )
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(path).items()})
    return network.eval()
