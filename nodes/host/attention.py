"""A MODEL's cross-attention: the width of the context that it reads, and how similar its outputs for two contexts are.

For the latter, the MODEL samples a few steps with the reference conditioning, and each cross-attention layer computes
the other conditionings' outputs for the same queries: after each layer all rows of the batch continue with the
reference's output. So a layer's figure depends on its keys and values alone, not on differences in earlier layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.sample
import comfy.samplers
import torch

from ...zhclip.io import ArtifactError
from ...zhclip.pipelines import one_length
from ...zhclip.schema import Meta

STEPS = 3
SIDE = 32  # of the latent: a quarter of 512 x 512 pixels, which is enough queries for a mean
SEED = 0
SIZE_EMBEDDING = 6 * 256  # width of the picture's sizes, which SDXL's UNet reads after the pooled vector


@dataclass(frozen=True)
class Agreement:
    """Mean cosine over queries: `values` (layers, noise levels, conditionings); conditioning 0 is the reference."""

    layers: list[str]
    sigmas: list[float]
    values: torch.Tensor


def require_fit(path: str, meta: Meta, model: Any) -> None:
    """Raise ArtifactError unless the encoder's output and pooled vector are as wide as the MODEL reads them."""
    config, kind = model.model.model_config.unet_config, type(model.model.model_config).__name__
    width, pooled = config.get("context_dim"), 0
    if isinstance(model.model, comfy.model_base.SDXL):
        pooled = config.get("adm_in_channels", SIZE_EMBEDDING) - SIZE_EMBEDDING
    if meta.teacher.width != width:
        found = f"an encoder whose output is {meta.teacher.width} wide"
        expected = f"the context of the connected MODEL ({kind}), {width or 'an unknown number of values'} wide"
    elif meta.pooled != pooled:
        found, expected = (f"a pooled vector {n} wide" if n else "no pooled vector" for n in (meta.pooled, pooled))
        found, expected = f"an encoder with {found}", f"{expected}, as the connected MODEL ({kind}) reads"
    else:
        return
    raise ArtifactError(
        path,
        f"{found} (teacher {meta.teacher.id})",
        expected,
        "Choose an encoder that was aligned to this kind of model, or connect a checkpoint of the encoder's own kind.",
    )


def attention_agreement(model: Any, conditionings: list[torch.Tensor], pooled: torch.Tensor) -> Agreement:
    """Compare (1, T, D) conditionings, of any T, with the first of them in every cross-attention layer of the MODEL.
    `pooled` (1, P) is the first one's, for a MODEL that reads it.

    Agreement is the cosine of the attention outputs, averaged over the queries of a 32 x 32 latent, at the noise levels
    of a seeded sampling of three steps. Raises ValueError for a MODEL without cross-attention that ComfyUI can patch.
    """
    observed: dict[str, list[torch.Tensor]] = {}

    def observe(n: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """n: (B, queries, channels), a layer's output for each conditioning."""
        cosine = torch.nn.functional.cosine_similarity(n.float(), n[:1].float(), dim=-1)
        observed.setdefault(layer_name(options), []).append(cosine.mean(dim=1).cpu())
        return n[:1].repeat(len(n), 1, 1)

    patched = model.clone()
    patched.set_model_attn2_output_patch(observe)  # after any other pack's patches, which belong to what is compared
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", STEPS)
    latent = torch.zeros(len(conditionings), patched.get_model_object("latent_format").latent_channels, SIDE, SIDE)
    noise = torch.randn(latent[:1].shape, generator=torch.Generator().manual_seed(SEED)).repeat(len(latent), 1, 1, 1)
    # One conditioning with a batch of its own: core may spread several over batches. At cfg 1 the negative is not used.
    batch = [[one_length(*(one[0].float().cpu() for one in conditionings)), {"pooled_output": pooled}]]
    euler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(patched, noise, 1.0, euler, sigmas, batch, batch, latent, disable_pbar=True, seed=SEED)
    if not observed:
        raise ValueError(
            f"model ({type(model.model).__name__}) has no cross-attention layer that can be observed: connect a Stable "
            "Diffusion 1.5 or SDXL checkpoint's MODEL, or nothing."
        )
    values = torch.stack([torch.stack(steps) for steps in observed.values()])
    return Agreement(list(observed), [float(sigma) for sigma in sigmas[:-1]], values)


def layer_name(options: dict[str, Any]) -> str:
    """`input 1`, `middle`, `output 11`: ComfyUI's number of the UNet's block, and the layer's where one has several."""
    kind, number = options["block"][:2]
    name = kind if kind == "middle" else f"{kind} {number}"
    return f"{name}.{options['block_index']}" if options.get("block_index") else name
