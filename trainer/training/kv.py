"""What SD1.5's cross-attention reads out of an encoding: a loss that does not ask which position holds a word.

A UNet's frozen to_k and to_v make keys and values of the encoding; a bank of queries attends to them. The Chinese
encoding has to give what the English one gives, wherever in the window it stands. The queries are the keys of English
content vectors: a picture that wants something asks near that thing's key. They are scaled so that the logits over the
bank's captions have a standard deviation of 2, which neither averages all positions nor picks one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..encoders import ModelError, read_tensors, resolve

FLAG = "train.unet"
NAME = re.compile(r"(.*attn2)\.to_k\.weight")
PATTERNS = [
    prefix + name for prefix in ("", "unet/") for name in ("config.json", "diffusion_pytorch_model.safetensors")
]
HEADS = 8  # SD1.5's, in every layer
SPREAD = 2.0


@dataclass(frozen=True)
class Layer:
    """A cross-attention layer: key and value maps (C, D), queries (heads, Q, C / heads), and the variance of what they
    read out of English captions."""

    key: torch.Tensor
    value: torch.Tensor
    queries: torch.Tensor
    variance: float

    def read(self, z: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """(B, P, D) -> (B, heads, Q, C / heads). By `drawn` (B, P) a kept position counts for those it stands for."""
        heads = (len(self.queries), -1)
        k, v = (torch.unflatten(z @ m.T, -1, heads).transpose(1, 2) for m in (self.key, self.value))
        logits = self.queries @ k.transpose(-1, -2) + drawn.log()[:, None, None]  # (B, heads, Q, P)
        return torch.softmax(logits, dim=-1) @ v


def load_layers(model: str, captions: torch.Tensor, drawn: torch.Tensor, lengths: torch.Tensor) -> list[Layer]:
    """The cross-attention layers of a UNet, with queries from English encodings.

    model: a diffusers UNet or pipeline folder, or an SD1.5 checkpoint file. captions: (Q, P, D) the teacher's output,
    fp32, of which each gives one query; drawn: (Q, P) shares of its positions; lengths: (Q,). Raises ModelError when
    there are no such layers of that width.
    """
    path = resolve(model, FLAG, PATTERNS)
    folder = path / "unet" if (path / "unet").is_dir() else path
    tensors = read_tensors(folder, FLAG)
    names = [match[1] for name in sorted(tensors) if (match := NAME.fullmatch(name))]
    if not names:
        raise ModelError(f"--{FLAG} {folder}: it has no cross-attention (no attn2.to_k.weight); give SD1.5's UNet")
    width = tensors[f"{names[0]}.to_k.weight"].shape[1]
    if width != captions.shape[-1]:
        raise ModelError(
            f"--{FLAG} {folder}: it reads encodings {width} wide, and the teacher's are {captions.shape[-1]} wide"
        )
    heads = _heads(folder)
    maps = {name: tensor.float().to(captions.device) for name, tensor in tensors.items() if ".attn2.to_" in name}
    # The middle of each text: the start would give one query to all captions, the end is a summary.
    asked = captions[torch.arange(len(captions)), (lengths.long() // 2).clamp(min=1)]  # (Q, D)
    return [
        _layer(maps[f"{name}.to_k.weight"], maps[f"{name}.to_v.weight"], heads, asked, captions, drawn)
        for name in names
    ]


def _layer(
    key: torch.Tensor, value: torch.Tensor, heads: int, asked: torch.Tensor, captions: torch.Tensor, drawn: torch.Tensor
) -> Layer:
    queries = torch.unflatten(asked @ key.T, -1, (heads, -1)).transpose(0, 1)  # (heads, Q, c)
    keys = torch.unflatten(captions @ key.T, -1, (heads, -1)).transpose(1, 2)  # (Q, heads, P, c)
    logits = queries @ keys.transpose(-1, -2)  # (Q, heads, Q, P)
    by_drawn = drawn[:, None, None]
    mean = (logits * by_drawn).sum(dim=-1).mean()
    variance = ((logits - mean).square() * by_drawn).sum(dim=-1).mean()
    queries = queries * (SPREAD / variance.sqrt())
    read = Layer(key, value, queries, 1.0).read(captions, drawn)
    return Layer(key, value, queries, float(read.var(dim=0, unbiased=False).mean()))


def _heads(folder: Path) -> int:
    config = folder / "config.json"
    if not config.is_file():
        return HEADS
    settings = json.loads(config.read_text(encoding="utf-8"))
    # diffusers calls SD1.5's number of heads attention_head_dim.
    return int(settings.get("num_attention_heads") or settings.get("attention_head_dim", HEADS))


def kv_loss(z: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, layers: list[Layer]) -> torch.Tensor:
    """Difference of what is read out of (B, P, D) encodings, in units of its variance over captions -> (B,).

    drawn: (B, P) shares of the positions. 0 where both read the same, 2 for another caption's.
    """
    out = torch.zeros(len(z), device=z.device)
    for layer in layers:
        difference = layer.read(z.float(), drawn) - layer.read(target.float(), drawn)
        out = out + difference.square().mean(dim=(1, 2, 3)) / layer.variance
    return out / len(layers)
