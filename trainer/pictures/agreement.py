"""How alike a UNet answers two conditionings: in each cross-attention layer, and in the noise that it predicts.

Both are asked on the inputs that the English prompt's own picture met. In the layers all go on with the English output
behind each layer, as the node ZhCLIP Inspector does it, so that a layer's figure is of its own keys and values and not
of differences that came before it. The predicted noise is another, whole pass, in which the differences add up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

Answer = dict[str, torch.Tensor]
"""The output of each layer, (1, queries, channels), and `noise`, (1, 4, H, W)."""
NOISE = "noise"


@torch.inference_mode()
def answer(
    unet: Any, sample: torch.Tensor, timestep: torch.Tensor, conditioning: torch.Tensor, onwards: Answer | None = None
) -> Answer:
    """What the UNet makes of a conditioning (T, D). Behind each layer its own output goes on, or that of `onwards`."""
    outputs: Answer = {}

    def keep(name: str) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor | None:
            outputs[name] = output
            return onwards[name] if onwards else None

        return hook

    where = dict(device=unet.device, dtype=unet.dtype)
    with ExitStack() as hooks:
        for name, part in unet.named_modules():
            if name.endswith(".attn2"):
                hooks.enter_context(part.register_forward_hook(keep(layer_name(name))))
        noise = unet(sample[None].to(**where), timestep.to(unet.device), conditioning[None].to(**where)).sample
    return outputs | {NOISE: noise}


def reference_answers(unet: Any, queries: dict[str, torch.Tensor], conditioning: torch.Tensor) -> list[Answer]:
    """What the UNet answers the English conditioning (T, D) at each of the kept inputs."""
    asked = zip(queries["input"], queries["timestep"])
    return [answer(unet, sample, timestep, conditioning) for sample, timestep in asked]


def agreement(
    unet: Any, queries: dict[str, torch.Tensor], reference: list[Answer], conditioning: torch.Tensor
) -> dict[str, Any]:
    """A conditioning (T, D) against the reference's answers.

    `layers` and `timesteps` name them; `attention_cosine` and `attention_error` are timesteps x layers, `noise_cosine`
    and `noise_error` one a timestep. Cosines of attention are means over queries; errors are |a - b| / |b|.
    """
    layers = [name for name in reference[0] if name != NOISE]
    rows: dict[str, list] = {f"{of}_{what}": [] for of in ("attention", NOISE) for what in ("cosine", "error")}
    for sample, timestep, theirs in zip(queries["input"], queries["timestep"], reference):
        own = answer(unet, sample, timestep, conditioning, theirs)
        cosines = [cosine_similarity(own[name].float(), theirs[name].float(), dim=-1) for name in layers]
        rows["attention_cosine"].append([float(cosine.mean()) for cosine in cosines])
        rows["attention_error"].append([relative_error(own[name], theirs[name]) for name in layers])
        noise, expected = answer(unet, sample, timestep, conditioning)[NOISE], theirs[NOISE]
        cosine = cosine_similarity(noise.float().flatten(), expected.float().flatten(), dim=0)
        rows["noise_cosine"].append(float(cosine))
        rows["noise_error"].append(relative_error(noise, expected))
    return {"timesteps": [round(float(timestep)) for timestep in queries["timestep"]], "layers": layers, **rows}


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|, over all elements."""
    return float((a.float() - b.float()).norm() / b.float().norm())


def layer_name(module: str) -> str:
    """`down 0.1`, `mid 0`, `up 3.2`: a block's number and the number in it of its attention."""
    parts = module.split(".")
    block, numbers = parts[0].removesuffix("_blocks").removesuffix("_block"), [p for p in parts[:4] if p.isdigit()]
    return f"{block} {'.'.join(numbers)}"
