"""A checkpoint's own CLIP as a teacher: which kinds of CLIP may be one, its vectors and its digest."""

from __future__ import annotations

from typing import Any

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import torch

from ...zhclip.files import digest
from .bert import SKIP_LAYER
from .clip import is_aligned

FROM_CHECKPOINT = "connect the CLIP output of the SD1.5 checkpoint that you paint with."


class Teacher:
    """The CLIP-L inside a checkpoint's CLIP, with whatever LoRA it carries. Raises ValueError for another kind."""

    def __init__(self, clip: Any) -> None:
        if is_aligned(clip):
            raise ValueError(f"The CLIP at `clip` is a ZhCLIP encoder; {FROM_CHECKPOINT}")
        model = clip.cond_stage_model
        towers = [name for name, part in model.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)]
        encoder: Any = getattr(model, "clip_l", None)
        if towers != ["clip_l"] or not isinstance(encoder.transformer, comfy.clip_model.CLIPTextModel):
            kind = f"{type(model).__name__}: {', '.join(towers) or 'no CLIP'}"
            raise ValueError(f"The CLIP at `clip` is not SD1.5's but another model's ({kind}); {FROM_CHECKPOINT}")
        self.clip, self.encoder, self.tower = clip, encoder, encoder.transformer.text_model

    @property
    def positions(self) -> int:
        """The longest window."""
        return int(self.tower.embeddings.position_embedding.weight.shape[0])

    @property
    def width(self) -> int:
        """Width of its vectors."""
        return int(self.tower.final_layer_norm.weight.shape[0])

    def windows(self, text: str) -> list[list[int]]:
        """The text's windows of ids, as the stock CLIPTextEncode makes them."""
        return [[int(pair[0]) for pair in window] for window in self.clip.tokenize(text)["l"]]

    def length(self, ids: list[int]) -> int:
        """Positions of a window up to and including its first end token."""
        return ids.index(self.encoder.special_tokens["end"]) + 1

    def states(self, windows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of P ids -> the last layer's vectors and those of clip skip, both through the final norm, (B, P, D)
        fp32. P may be less than a whole window: causal, CLIP answers the same for the positions that are there.
        """
        device = self.clip.patcher.load_device
        x = self.encoder.process_tokens(windows, device)[0]
        # Not the encoder's own forward: it adds all of its position embeddings, whatever length it is given.
        position = self.tower.embeddings.position_embedding.weight[: x.shape[1]]
        x = x + comfy.ops.cast_to(position, dtype=x.dtype, device=x.device)
        causal = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, dtype=x.dtype, device=x.device)
        last, skip = self.tower.encoder(x, mask=causal.triu_(1), intermediate_output=SKIP_LAYER)
        norm = self.tower.final_layer_norm
        return norm(last).float().cpu(), norm(skip).float().cpu()

    def sha256(self) -> str:
        """Digest of its weights as they are loaded, the trainer's of the same teacher."""
        return digest(self.tower.state_dict())
