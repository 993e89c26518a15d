"""A checkpoint's own CLIP as the teacher of a calibration: its vectors and its digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import comfy.clip_model
import comfy.model_management
import comfy.ops
import comfy.sd1_clip
import comfy.utils
import torch

from ...zhclip.io import digest
from ...zhclip.models import CheckpointKind, Part
from ..messages import message
from .bert import SKIP_LAYER
from .clip import is_aligned

Windows = list[list[int]]
Item = TypeVar("Item")


class Teacher:
    """The text encoders of a checkpoint's CLIP, with their LoRA if any. Raises ValueError for another kind of CLIP."""

    def __init__(self, clip: Any, kind: CheckpointKind) -> None:
        if is_aligned(clip):
            raise ValueError(message("teacher_is_zhclip", kind=kind.name))
        model = clip.cond_stage_model
        parts = {name: part for name, part in model.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)}
        all_clip = all(isinstance(part.transformer, comfy.clip_model.CLIPTextModel) for part in parts.values())
        if list(parts) != [f"clip_{key}" for key in kind.keys] or not all_clip:
            found = f"{type(model).__name__}: {', '.join(parts) or 'no CLIP'}"
            raise ValueError(message("other_model", kind=kind.name, found=found))
        self.clip, self.kind, self.encoders = clip, kind, list(parts.values())
        self.text_models = [encoder.transformer.text_model for encoder in self.encoders]
        self.positions = min(len(model.embeddings.position_embedding.weight) for model in self.text_models)
        self.widths = tuple(len(model.final_layer_norm.weight) for model in self.text_models)
        self.projection = self.encoders[-1].transformer.text_projection
        self.pooled_width = len(self.projection.weight) if kind.pooled else 0

    def windows(self, text: str) -> Windows:
        """The text's windows of ids for the first encoder, as the stock CLIPTextEncode makes them."""
        return [[int(pair[0]) for pair in window] for window in self.clip.tokenize(text)[self.kind.keys[0]]]

    def length(self, ids: list[int]) -> int:
        """Number of positions up to and including the first end token."""
        return ids.index(self.encoders[0].special_tokens["end"]) + 1

    def states(self, windows: Windows) -> dict[str, torch.Tensor]:
        """Windows of P ids of the first encoder -> `last` and `skip` (B, P, D), the encoders' vectors of the last layer
        and of the one before it side by side, through the final norm where the UNet reads them so; and `pooled`
        (B, 1, G) where the UNet reads it; all fp32.

        P may be less than a whole window if the end token is included: CLIP is causal.
        """
        layers = [self._last_two(*each, windows) for each in zip(self.kind.parts, self.encoders)]
        by_layer: dict[str, list[torch.Tensor]] = {"last": [], "skip": []}
        for part, model, states in zip(self.kind.parts, self.text_models, layers):
            for name, state in zip(by_layer, states):
                by_layer[name].append((model.final_layer_norm(state) if part.final_norm else state).float().cpu())
        vectors = {name: torch.cat(parts, dim=-1) for name, parts in by_layer.items()}
        if self.kind.pooled:
            ends = [self.length(ids) - 1 for ids in windows]
            last = self.text_models[-1].final_layer_norm(layers[-1][0])[range(len(ends)), ends]
            vectors["pooled"] = self.projection(last)[:, None].float().cpu()
        return vectors

    def _last_two(self, part: Part, encoder: Any, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
        """An encoder's last two hidden states, (B, P, width) each, without its final norm."""
        device, model = self.clip.patcher.load_device, encoder.transformer.text_model
        if part.pad is not None:
            lengths = map(self.length, windows)
            windows = [ids[:n] + [part.pad] * (len(ids) - n) for ids, n in zip(windows, lengths)]
        x = encoder.process_tokens(windows, device)[0]
        # Not the encoder's own forward, which adds all position embeddings, whatever the length of its input.
        position = model.embeddings.position_embedding.weight[: x.shape[1]]
        x = x + comfy.ops.cast_to(position, dtype=x.dtype, device=x.device)
        causal = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, dtype=x.dtype, device=x.device)
        return model.encoder(x, mask=causal.triu_(1), intermediate_output=SKIP_LAYER)

    def sha256(self) -> str:
        """Digest of the weights as they are loaded, equal to the trainer's of the same teacher: of one encoder by the
        names in its module, of several with the part's key before them."""
        if len(self.text_models) == 1:
            return digest(self.text_models[0].state_dict())
        named = {f"{key}.{n}": t for key, m in zip(self.kind.keys, self.text_models) for n, t in m.state_dict().items()}
        if self.kind.pooled:
            named[f"{self.kind.keys[-1]}.text_projection.weight"] = self.projection.weight
        return digest(named)


def with_progress(items: Sequence[Item]) -> Iterator[Item]:
    """Yields the items with a progress bar. Raises ComfyUI's own exception when the user interrupts."""
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
