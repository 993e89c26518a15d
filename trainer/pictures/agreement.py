"""How alike a UNet answers two conditionings: in each cross-attention layer, and in the noise that it predicts.

Both are asked on the inputs that the English prompt's own picture met. In the layers all go on with the English output
behind each layer, as the node ZhCLIP Inspector does it, so that a layer's figure is of its own keys and values and not
of differences that came before it. The predicted noise is another, whole pass, in which the differences add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

Answers = list[dict[str, torch.Tensor]]
"""For each timestep the output of each layer, (1, queries, channels), and `noise`, (1, 4, H, W)."""


@torch.inference_mode()
def reference_answers(unet: Any, queries: dict[str, torch.Tensor], conditioning: torch.Tensor) -> Answers:
    """What the UNet answers the English conditioning (T, D) at each of the kept inputs."""
    answers = []
    for sample, timestep in zip(queries["input"], queries["timestep"]):
        answer: dict[str, torch.Tensor] = {}

        def keep(name: str, output: torch.Tensor, into: dict[str, torch.Tensor] = answer) -> torch.Tensor:
            into[name] = output
            return output

        answer["noise"] = _observed(unet, sample, timestep, conditioning, keep)
        answers.append(answer)
    return answers


@torch.inference_mode()
def agreement(
    unet: Any, queries: dict[str, torch.Tensor], reference: Answers, conditioning: torch.Tensor
) -> dict[str, Any]:
    """A conditioning (T, D) against the reference's answers.

    `layers` and `timesteps` name them; `attention_cosine` and `attention_error` are timesteps x layers, `noise_cosine`
    and `noise_error` one a timestep. Cosines of attention are means over queries; errors are |a - b| / |b|.
    """
    found: dict[str, Any] = {
        "timesteps": [round(float(timestep)) for timestep in queries["timestep"]],
        "layers": [name for name in reference[0] if name != "noise"],
    }
    rows: dict[str, list] = {f"{of}_{what}": [] for of in ("attention", "noise") for what in ("cosine", "error")}
    for sample, timestep, answer in zip(queries["input"], queries["timestep"], reference):
        likeness: list[tuple[float, float]] = []

        def compare(
            name: str,
            output: torch.Tensor,
            theirs: dict[str, torch.Tensor] = answer,
            into: list[tuple[float, float]] = likeness,
        ) -> torch.Tensor:
            cosines = cosine_similarity(output.float(), theirs[name].float(), dim=-1)
            into.append((float(cosines.mean()), relative_error(output, theirs[name])))
            return theirs[name]

        _observed(unet, sample, timestep, conditioning, compare)
        rows["attention_cosine"].append([cosine for cosine, _ in likeness])
        rows["attention_error"].append([error for _, error in likeness])
        noise, expected = _asked(unet, sample, timestep, conditioning), answer["noise"]
        rows["noise_cosine"].append(
            float(cosine_similarity(noise.float().flatten(), expected.float().flatten(), dim=0))
        )
        rows["noise_error"].append(relative_error(noise, expected))
    return found | rows


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|, over all elements."""
    return float((a.float() - b.float()).norm() / b.float().norm())


def layer_name(module: str) -> str:
    """`down 0.1`, `mid 0`, `up 3.2`: a block's number and the number in it of its attention."""
    parts = module.split(".")
    block, numbers = parts[0].removesuffix("_blocks").removesuffix("_block"), [p for p in parts[:4] if p.isdigit()]
    return f"{block} {'.'.join(numbers)}"


def _observed(
    unet: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditioning: torch.Tensor,
    observe: Callable[[str, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The predicted noise, where `observe` is shown each cross-attention's output and says what goes on from there."""
    layers = {layer_name(name): part for name, part in unet.named_modules() if name.endswith(".attn2")}

    def hook(name: str) -> Callable[..., torch.Tensor]:
        return lambda module, arguments, output: observe(name, output)

    hooks = [part.register_forward_hook(hook(name)) for name, part in layers.items()]
    try:
        return _asked(unet, sample, timestep, conditioning)
    finally:
        for one in hooks:
            one.remove()


def _asked(unet: Any, sample: torch.Tensor, timestep: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
    where = dict(device=unet.device, dtype=unet.dtype)
    return unet(sample[None].to(**where), timestep.to(unet.device), conditioning[None].to(**where)).sample
