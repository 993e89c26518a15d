"""A MODEL's cross-attention: how wide a context it reads, and how alike it answers two, layer by layer.

For the latter, the MODEL samples a few steps with the reference conditioning, by ComfyUI's own sampler, and every other
conditioning is asked the same queries on the way: after each cross-attention layer all rows of the batch go on with the
reference's output. So a layer's figure is of its keys and values alone, and not of differences that came before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.sample
import comfy.samplers
import torch

from ...zhclip.artifact import ArtifactError, Meta
from ...zhclip.pipelines import one_length

STEPS = 3
SIDE = 32  # of the latent: a quarter of 512 x 512 pixels, which is enough queries for a mean
SEED = 0
SIZES = 6 * 256  # of the picture, which comfy.model_base.SDXL sets behind the pooled vector


@dataclass(frozen=True)
class Agreement:
    """Mean cosine over queries. `values` is (layers, noise levels, conditionings); conditioning 0 is the reference."""

    layers: list[str]
    sigmas: list[float]
    values: torch.Tensor


def require_fit(path: str, meta: Meta, model: Any) -> None:
    """Raise ArtifactError unless the encoder's output is as wide as the context that the MODEL reads, and its pooled
    vector as wide as the MODEL's."""
    config, kind = model.model.model_config.unet_config, type(model.model.model_config).__name__
    cure = (
        "Choose an encoder that was aligned to this kind of model, or connect a checkpoint of the encoder's own kind."
    )
    width = config.get("context_dim")
    if meta.teacher.width != width:
        wants = f"{width} wide" if width else "of no stated width"
        raise ArtifactError(
            path,
            f"an encoder whose output is {meta.teacher.width} wide (teacher {meta.teacher.id})",
            f"the context of the connected MODEL ({kind}), {wants}",
            cure,
        )
    pooled = config.get("adm_in_channels", SIZES) - SIZES if isinstance(model.model, comfy.model_base.SDXL) else 0
    if meta.pooled != pooled:
        found, expected = (
            f"a pooled vector {one} wide" if one else "no pooled vector" for one in (meta.pooled, pooled)
        )
        raise ArtifactError(
            path,
            f"an encoder with {found} (teacher {meta.teacher.id})",
            f"{expected}, as the connected MODEL ({kind}) reads",
            cure,
        )


def attention_agreement(model: Any, conditionings: list[torch.Tensor], pooled: torch.Tensor) -> Agreement:
    """Compare (1, T, D) conditionings, of any T, with the first of them in every cross-attention layer of the MODEL.
    `pooled` (1, P) is the first one's, for a MODEL that reads it beside the context.

    Agreement of two is the cosine of their attention outputs, averaged over the queries of a 32 x 32 latent, at the
    noise levels of a seeded sampling of three steps. Raises ValueError when the MODEL has no cross-attention that
    ComfyUI lets be observed.
    """
    seen: dict[str, list[torch.Tensor]] = {}

    def observe(n: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """n: (B, queries, channels), one layer's output for each conditioning."""
        cosine = torch.nn.functional.cosine_similarity(n.float(), n[:1].float(), dim=-1)
        seen.setdefault(layer_name(options), []).append(cosine.mean(dim=1).cpu())
        return n[:1].repeat(len(n), 1, 1)

    observed = model.clone()
    observed.set_model_attn2_output_patch(observe)  # after any other pack's patches, which belong to what is compared
    levels = comfy.samplers.calculate_sigmas(observed.get_model_object("model_sampling"), "simple", STEPS)
    latent = torch.zeros(len(conditionings), observed.get_model_object("latent_format").latent_channels, SIDE, SIDE)
    noise = torch.randn(latent[:1].shape, generator=torch.Generator().manual_seed(SEED)).repeat(len(latent), 1, 1, 1)
    # One conditioning with a batch of its own, and not several: core may spread several over batches. At cfg 1 the
    # negative is not computed.
    batch = [[one_length(*(one[0].float().cpu() for one in conditionings)), {"pooled_output": pooled}]]
    euler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(observed, noise, 1.0, euler, levels, batch, batch, latent, disable_pbar=True, seed=SEED)
    if not seen:
        raise ValueError(
            f"model ({type(model.model).__name__}) has no cross-attention layer that can be observed: connect a Stable "
            "Diffusion 1.5 or SDXL checkpoint's MODEL, or nothing."
        )
    values = torch.stack([torch.stack(steps) for steps in seen.values()])
    return Agreement(list(seen), [float(level) for level in levels[:-1]], values)


def layer_name(options: dict[str, Any]) -> str:
    """`input 1`, `middle`, `output 11`: ComfyUI's numbers of the UNet's blocks, and the layer's where one has more."""
    kind, number = options["block"][:2]
    name = kind if kind == "middle" else f"{kind} {number}"
    return f"{name}.{options['block_index']}" if options.get("block_index") else name
