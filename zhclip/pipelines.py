"""Prompt embeddings for diffusers' pipelines, from an encoder's file. Nothing of diffusers is imported."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .artifact import load
from .bert import Bert
from .emphasis import combine, rows
from .io import AnyPath, ArtifactError
from .models import kind_of
from .schema import Meta
from .structure import structures
from .tokens import PromptTokenizer, Window

BATCH = 64  # rows of one forward pass
MAX_WINDOWS = 100  # that the prompts of one call are repeated to: 63 MB each at SDXL's width in fp32


class PromptEncoder:
    """The encoder of one file: `pipe(**encoder(prompt))`."""

    def __init__(
        self, path: AnyPath, pipe: Any = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        """`pipe`: a pipeline of diffusers, whose UNet the encoder must fit; None for embeddings alone. `device`: where
        the encoder runs, in fp32. `dtype` of the embeddings: by default the UNet's, or fp32 without one. Raises
        ArtifactError for a file that is no whole encoder, or one for another kind of UNet."""
        artifact = load(path)
        self.meta, self.tokens = artifact.meta, PromptTokenizer.from_artifact(artifact)
        if pipe is not None:
            check_fit(path, self.meta, pipe)
        self.device, self.dtype = torch.device(device), dtype or (pipe.unet.dtype if pipe else torch.float32)
        self.bert = Bert.from_tensors(self.meta.dimensions, self._on_device(artifact.bert)).requires_grad_(False)
        placed = {name: replace(own, **self._on_device(own.tensors())) for name, own in structures(artifact).items()}
        self.structure, self.pooled = placed["structure"], placed.get("pooled")
        # What the pipeline itself uses without a negative prompt: zeros, or the empty prompt.
        self.zero_negative = pipe is not None and bool(pipe.config.get("force_zeros_for_empty_prompt"))

    def __call__(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """One prompt or B of them -> `prompt_embeds` and `negative_prompt_embeds` (B, T, D) of one T, and for a UNet
        that reads them `pooled_prompt_embeds` and `negative_pooled_prompt_embeds` (B, P), as keywords for the pipeline.

        One negative prompt serves all; None is what the pipeline uses without one, and the empty prompt without a
        pipeline. Raises ValueError for prompts that are too long, and for negative ones that are not as many.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        if not prompts or len(negatives) not in (1, len(prompts)):
            counts = f"{len(prompts)} prompts and {len(negatives)} negative prompts"
            raise ValueError(f"{counts}: give at least one prompt, and one negative prompt for all or one for each.")
        out: dict[str, torch.Tensor] = {}
        for name, x in zip(("prompt_embeds", "pooled_prompt_embeds"), self._encode([*prompts, *negatives])):
            positive, negative = x[: len(prompts)], x[len(prompts) :]
            if negative_prompt is None and self.zero_negative:
                negative = torch.zeros_like(negative)
            out |= {name: positive, f"negative_{name}": torch.cat([negative] * (len(prompts) // len(negative)))}
        return out

    def _encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """B prompts -> embeddings (B, T, D) and, where the file has them, pooled vectors (B, P), each of its prompt's
        first window. Raises ValueError for prompts that are too long."""
        windows = [self.tokens.weighted_windows(text) for text in texts]
        if (length := math.lcm(*map(len, windows))) > MAX_WINDOWS:
            raise ValueError(
                f"The prompts take {sorted({*map(len, windows)})} windows, so that all must be repeated to {length}, "
                f"which is over {MAX_WINDOWS}: make them shorter, or as many windows long as each other."
            )
        unknown = self.tokens.unknown_pieces(window for one in windows for window in one)
        if unknown:
            warnings.warn(f"not in the encoder's vocabulary, so read as unknown: {' '.join(unknown)}", stacklevel=3)
        encoded = [self._encode_windows(one) for one in windows]
        vectors = [torch.stack([pooled for _, pooled in encoded])] if self.pooled else []
        return [x.to(self.dtype) for x in (one_length(*(one[0] for one in encoded)), *vectors)]

    def _encode_windows(self, windows: list[Window]) -> list[torch.Tensor]:
        """The windows of one prompt -> (windows * W, D) and, where the file has one, the first's pooled vector (P,)."""
        batch = rows(windows)
        ids = torch.tensor([ids for ids, _ in batch])
        keys = self.tokens.key_mask(ids) if self.meta.mask_padding else torch.ones_like(ids, dtype=torch.bool)
        for at, (_, hidden_keys) in enumerate(batch):
            keys[at, hidden_keys.start : hidden_keys.stop] = False
        parts = zip(ids.to(self.device).split(BATCH), keys.to(self.device).split(BATCH))
        hidden, empty = torch.cat([self.bert(*part) for part in parts]), self.tokens.is_empty(ids)
        z = combine(self.structure.apply(hidden, empty), windows).flatten(0, 1)
        return [z, combine(self.pooled.apply(hidden[:, :1], empty), windows)[0, 0]] if self.pooled else [z]

    def _on_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {name: tensor.to(self.device, torch.float32) for name, tensor in tensors.items()}


def one_length(*conditionings: torch.Tensor) -> torch.Tensor:
    """(T, D) of any T -> (B, lcm of the Ts, D), each repeated as ComfyUI does: attention to keys given twice is the
    same."""
    length = math.lcm(*(len(one) for one in conditionings))
    return torch.stack([one.repeat(length // len(one), 1) for one in conditionings])


def check_fit(path: AnyPath, meta: Meta, pipe: Any) -> None:
    """Raise ArtifactError unless the pipeline's UNet reads what the encoder gives."""
    config = getattr(getattr(pipe, "unet", None), "config", {})
    width, pooled = config.get("cross_attention_dim"), 0
    if config.get("addition_embed_type") == "text_time":
        # diffusers embeds six numbers beside the pooled vector: original size, crop, target size.
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    if (width, pooled) != (meta.teacher.width, meta.pooled):
        raise ArtifactError(
            path,
            f"an encoder for {kind_of(meta.keys).name}, of width {meta.teacher.width} and pooled width {meta.pooled}",
            f"one for the UNet of this {type(pipe).__name__}, of width {width} and pooled width {pooled}",
            "Load the encoder that was aligned to this kind of checkpoint, or a pipeline of the encoder's kind.",
        )
