"""The student of an artifact by torch alone: BERT's forward pass, as transformers and ComfyUI run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from .artifact import Dimensions


@dataclass(frozen=True)
class Bert:
    """`tensors` are all of one dtype, on one device, in Hugging Face BertModel names."""

    dimensions: Dimensions
    tensors: Mapping[str, torch.Tensor]

    def __call__(self, ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(B, W) ids and (B, W) bool, True where a key may be seen -> (B, W, S) last hidden states. Without dropout."""
        words, positions, types = (
            self.tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = self._norm("embeddings", words[ids] + positions[: ids.shape[1]] + types[0])
        for layer in range(self.dimensions.layers):
            at = f"encoder.layer.{layer}"
            seen = self._attention(f"{at}.attention.self", x, keys[:, None, None, :])
            x = self._norm(f"{at}.attention.output", x + self._linear(f"{at}.attention.output.dense", seen))
            inner = gelu(self._linear(f"{at}.intermediate.dense", x))
            x = self._norm(f"{at}.output", x + self._linear(f"{at}.output.dense", inner))
        return x

    def _attention(self, at: str, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._linear(f"{at}.{name}", x).unflatten(-1, (self.dimensions.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # each (B, H, W, S / H)
        return scaled_dot_product_attention(query, key, value, attn_mask=keys).transpose(1, 2).flatten(2)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, at: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (self.tensors[f"{at}.LayerNorm.{name}"] for name in ("weight", "bias"))
        return layer_norm(x, weight.shape, weight, bias, self.dimensions.layer_norm_eps)
