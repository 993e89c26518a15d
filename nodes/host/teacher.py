"""A checkpoint's own CLIP as a teacher: which kinds of CLIP may be one, its vectors and its digest."""

from __future__ import annotations

from typing import Any

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import torch

from ...zhclip.io import digest
from ...zhclip.models import Kind, Part
from .bert import SKIP_LAYER
from .clip import is_aligned

Windows = list[list[int]]


class Teacher:
    """The text encoders inside the CLIP of a checkpoint of this kind, with whatever LoRA they carry. Raises ValueError
    for a CLIP of another kind."""

    def __init__(self, clip: Any, kind: Kind) -> None:
        cure = f"connect the CLIP output of the {kind.name} checkpoint that you paint with."
        if is_aligned(clip):
            raise ValueError(f"The CLIP at `clip` is a ZhCLIP encoder; {cure}")
        model = clip.cond_stage_model
        towers = {name: part for name, part in model.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)}
        clips = all(isinstance(encoder.transformer, comfy.clip_model.CLIPTextModel) for encoder in towers.values())
        if list(towers) != [f"clip_{key}" for key in kind.keys] or not clips:
            found = f"{type(model).__name__}: {', '.join(towers) or 'no CLIP'}"
            raise ValueError(f"The CLIP at `clip` is not {kind.name}'s but another model's ({found}); {cure}")
        self.clip, self.kind, self.encoders = clip, kind, list(towers.values())
        self.towers = [encoder.transformer.text_model for encoder in self.encoders]

    @property
    def positions(self) -> int:
        """The longest window."""
        return min(int(tower.embeddings.position_embedding.weight.shape[0]) for tower in self.towers)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the encoders' vectors."""
        return tuple(int(tower.final_layer_norm.weight.shape[0]) for tower in self.towers)

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector, 0 where the UNet reads none."""
        return int(self.encoders[-1].transformer.text_projection.weight.shape[0]) if self.kind.pooled else 0

    def windows(self, text: str) -> Windows:
        """The text's windows of ids for the first encoder, as the stock CLIPTextEncode makes them."""
        return [[int(pair[0]) for pair in window] for window in self.clip.tokenize(text)[self.kind.keys[0]]]

    def length(self, ids: list[int]) -> int:
        """Positions of a window up to and including its first end token."""
        return ids.index(self.encoders[0].special_tokens["end"]) + 1

    def states(self, windows: Windows) -> dict[str, torch.Tensor]:
        """Windows of P ids of the first encoder -> `last` and `skip`, the vectors of the last layer and of the one
        before it, each encoder's through its final norm where the UNet wants it so, side by side (B, P, D); and
        `pooled` (B, 1, G) where the UNet reads it; all fp32. P may be less than a whole window: causal, CLIP answers
        the same for the positions that are there, but the end token must be among them.
        """
        layers = [self._layers(*each, windows) for each in zip(self.kind.parts, self.encoders)]
        found: dict[str, list[torch.Tensor]] = {"last": [], "skip": []}
        for part, tower, states in zip(self.kind.parts, self.towers, layers):
            for name, state in zip(found, states):
                found[name].append((tower.final_layer_norm(state) if part.final_norm else state).float().cpu())
        vectors = {name: torch.cat(sides, dim=-1) for name, sides in found.items()}
        if self.kind.pooled:
            ends = [self.length(ids) - 1 for ids in windows]
            last = self.towers[-1].final_layer_norm(layers[-1][0])[range(len(ends)), ends]
            vectors["pooled"] = self.encoders[-1].transformer.text_projection(last)[:, None].float().cpu()
        return vectors

    def _layers(self, part: Part, encoder: Any, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
        """An encoder's last two hidden states, (B, P, width) each, without its final norm."""
        device, tower = self.clip.patcher.load_device, encoder.transformer.text_model
        if part.pad is not None:
            windows = [_padded(ids, self.length(ids), part.pad) for ids in windows]
        x = encoder.process_tokens(windows, device)[0]
        # Not the encoder's own forward: it adds all of its position embeddings, whatever length it is given.
        position = tower.embeddings.position_embedding.weight[: x.shape[1]]
        x = x + comfy.ops.cast_to(position, dtype=x.dtype, device=x.device)
        causal = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, dtype=x.dtype, device=x.device)
        return tower.encoder(x, mask=causal.triu_(1), intermediate_output=SKIP_LAYER)

    def sha256(self) -> str:
        """Digest of its weights as they are loaded, the trainer's of the same teacher."""
        if len(self.towers) == 1:
            return digest(self.towers[0].state_dict())
        named = {
            f"{key}.{name}": tensor
            for key, tower in zip(self.kind.keys, self.towers)
            for name, tensor in tower.state_dict().items()
        }
        if self.kind.pooled:
            named[f"{self.kind.keys[-1]}.text_projection.weight"] = self.encoders[-1].transformer.text_projection.weight
        return digest(named)


def _padded(ids: list[int], length: int, pad: int) -> list[int]:
    return ids[:length] + [pad] * (len(ids) - length)
