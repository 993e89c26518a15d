"""Prompts for diffusers' pipelines: the embeddings that they take in a prompt's place, from an encoder's file.

Not named diffusers.py, which whatever is started from this folder would import in the library's place. Nothing of
diffusers is imported: a pipeline tells its UNet's configuration, and gets tensors.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .artifact import load
from .bert import Bert
from .emphasis import Row, combine, rows
from .io import ArtifactError
from .models import kind_of
from .schema import Meta
from .structure import structures
from .tokens import PromptTokenizer

BATCH = 64  # rows of one forward pass
MAX_WINDOWS = 100  # that the prompts of one call are repeated to: 63 MB each at SDXL's width in fp32


class PromptEncoder:
    """The encoder of one file for one pipeline: `pipe(**encoder(prompt))`."""

    def __init__(self, path: str | os.PathLike[str], pipe: Any, device: torch.device | str = "cpu") -> None:
        """`pipe`: a pipeline of diffusers, whose UNet the encoder must fit and whose dtype its output has. `device`:
        where the encoder runs, in fp32; a pipeline moves embeddings to its own. Raises ArtifactError for a file that is
        no whole encoder, or one for another kind of UNet.
        """
        artifact = load(path)
        self.meta, self.tokens = artifact.meta, PromptTokenizer.from_artifact(artifact)
        check_fit(path, self.meta, pipe)
        self.device, self.dtype = torch.device(device), pipe.unet.dtype
        self.bert = Bert.from_tensors(self.meta.dimensions, self._placed(artifact.bert)).requires_grad_(False)
        placed = {name: replace(own, **self._placed(own.tensors())) for name, own in structures(artifact).items()}
        self.structure, self.pooled = placed["structure"], placed.get("pooled")
        # What the pipeline itself uses without a negative prompt: zeros, or the empty prompt.
        self.zeros = bool(pipe.config.get("force_zeros_for_empty_prompt"))

    def __call__(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """One prompt or B of them -> `prompt_embeds` and `negative_prompt_embeds` (B, T, D) of one T, and for a UNet
        that reads them `pooled_prompt_embeds` and `negative_pooled_prompt_embeds` (B, P), as keywords for the pipeline.

        One negative prompt serves all; None is what the pipeline uses without one. Raises ValueError for prompts that
        are too long, and for negative ones that are not as many.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        if not prompts or len(negatives) not in (1, len(prompts)):
            raise ValueError(
                f"{len(prompts)} prompts and {len(negatives)} negative prompts: give at least one prompt, and one "
                "negative prompt for all or one for each."
            )
        out: dict[str, torch.Tensor] = {}
        for name, x in zip(("prompt_embeds", "pooled_prompt_embeds"), self._encode([*prompts, *negatives])):
            positive, negative = x[: len(prompts)], x[len(prompts) :]
            if negative_prompt is None and self.zeros:
                negative = torch.zeros_like(negative)
            out |= {name: positive, f"negative_{name}": torch.cat([negative] * (len(prompts) // len(negative)))}
        return out

    def _encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """B prompts -> embeddings (B, T, D) and, where the file has them, pooled vectors (B, P), each of its prompt's
        first window. Raises ValueError for prompts that are too long."""
        windows = [self.tokens.weighted_windows(text) for text in texts]
        if (length := math.lcm(*map(len, windows))) > MAX_WINDOWS:
            counts = ", ".join(map(str, sorted({*map(len, windows)})))
            raise ValueError(
                f"The prompts take {counts} windows, and their shortest common length is {length} windows, of "
                f"{MAX_WINDOWS} at most: make them shorter, or as many windows long as each other."
            )
        unknown = self.tokens.unknown_in(window for one in windows for window in one)
        if unknown:
            warnings.warn(f"not in the encoder's vocabulary, so read as unknown: {' '.join(unknown)}", stacklevel=3)
        batches = [rows(one) for one in windows]
        flat = [row for batch in batches for row in batch]
        parts = [self._forward(flat[at : at + BATCH]) for at in range(0, len(flat), BATCH)]
        sizes = [len(batch) for batch in batches]
        z, *pooled = [
            [combine(x, one) for x, one in zip(torch.cat(part).split(sizes), windows)] for part in zip(*parts)
        ]
        vectors = [torch.stack([one[0, 0] for one in each]) for each in pooled]
        return [x.to(self.dtype) for x in (one_length(*(one.flatten(0, 1) for one in z)), *vectors)]

    def _forward(self, batch: list[Row]) -> list[torch.Tensor]:
        """Vectors (rows, W, D) and, where the file has them, pooled ones (rows, 1, P)."""
        ids = torch.tensor([row.ids for row in batch])
        keys = self.tokens.key_mask(ids) if self.meta.mask_padding else torch.ones_like(ids, dtype=torch.bool)
        for at, row in enumerate(batch):
            keys[at, row.hidden.start : row.hidden.stop] = False
        hidden, empty = self.bert(ids.to(self.device), keys.to(self.device)), self.tokens.is_empty(ids)
        z = self.structure.apply(hidden, empty)
        return [z, self.pooled.apply(hidden[:, :1], empty)] if self.pooled else [z]

    def _placed(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {name: tensor.to(self.device, torch.float32) for name, tensor in tensors.items()}


def one_length(*conditionings: torch.Tensor) -> torch.Tensor:
    """(T, D) of any T -> (B, lcm of the Ts, D), each repeated: attention to keys given twice is the same, and ComfyUI
    joins conditionings of unlike length so."""
    length = math.lcm(*(len(one) for one in conditionings))
    return torch.stack([one.repeat(length // len(one), 1) for one in conditionings])


def check_fit(path: str | os.PathLike[str], meta: Meta, pipe: Any) -> None:
    """Raise ArtifactError unless the pipeline's UNet reads what the encoder gives."""
    config = getattr(getattr(pipe, "unet", None), "config", {})
    width, added = config.get("cross_attention_dim"), config.get("addition_embed_type")
    pooled = 0
    if added == "text_time":
        # diffusers embeds six numbers beside the pooled vector: original size, crop, target size.
        pooled = (config.get("projection_class_embeddings_input_dim") or 0) - 6 * (
            config.get("addition_time_embed_dim") or 0
        )
    if (width, pooled) == (meta.teacher.width, meta.pooled) and added in (None, "text_time"):
        return
    raise ArtifactError(
        path,
        f"an encoder for {kind_of(meta.keys).name}, {_described(meta.teacher.width, meta.pooled)}",
        f"one for the UNet of this {type(pipe).__name__}, {_described(width, pooled)}",
        "Load the encoder that was aligned to this kind of checkpoint, or a pipeline of the encoder's kind.",
    )


def _described(width: int | None, pooled: int) -> str:
    wide = f"{width} wide" if width else "of no stated width"
    return f"{wide}, with {f'a pooled vector of {pooled}' if pooled else 'no pooled vector'}"
