"""BERT, with the parameter names of transformers' BertModel, for whole windows and for packed positions, where captions
of different lengths are computed without the padding between them: only attention sees captions apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .schema import Dimensions


class Bert(nn.Module):
    """BertModel without pooler and dropout. Shapes below: B windows, P positions, S width, T packed positions."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        d = self.dimensions = dimensions
        rows = {"word": d.vocabulary, "position": d.positions, "token_type": d.types}
        embeddings: Any = {f"{name}_embeddings": nn.Embedding(count, d.width) for name, count in rows.items()}
        self.embeddings: Any = nn.ModuleDict(embeddings | {"LayerNorm": nn.LayerNorm(d.width, d.layer_norm_eps)})
        self.encoder: Any = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(d) for _ in range(d.layers))})

    @classmethod
    def from_tensors(cls, dimensions: Dimensions, tensors: dict[str, torch.Tensor]) -> Bert:
        """A BERT whose parameters are these tensors, not copies. Raises RuntimeError for missing or other ones."""
        with torch.device("meta"):  # drawing random numbers would take longer than reading a file
            bert = cls(dimensions)
        bert.load_state_dict(tensors, assign=True)
        return bert

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embeddings.word_embeddings.weight.device

    def forward(
        self,
        ids: torch.Tensor | None,
        keys: torch.Tensor,
        positions: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> torch.Tensor:
        """Run the embeddings and layers [first, last), last None for all -> (B, P, S), or packed (T, S).

        ids: (B, P), not read where `hidden` (B, P, S), or packed (T, S), is given, the input of layer `first`.
        keys: (B, P) bool, True where a position may be attended to; False wherever one is not computed.
        positions: (B, P) of the ids in their window, by default 0 to P - 1.
        index: (T,) the positions of the flat (B, P) that are computed; the result is then packed.
        """
        if hidden is None:
            if positions is None:
                positions = torch.arange(keys.shape[1], device=keys.device)
            parts = self.embeddings
            words = parts.word_embeddings(ids) + parts.token_type_embeddings.weight[0]
            hidden = parts.LayerNorm(words + parts.position_embeddings(positions))
        if index is not None and hidden.dim() == 3:
            hidden = hidden.flatten(0, 1).index_select(0, index)
        for layer in self.encoder.layer[first:last]:
            hidden = layer(hidden, keys, index)
        return hidden


class BertLayer(nn.Module):
    """Self-attention at the positions that `keys` allows, and a feed-forward network."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.heads = d.heads

        def output(width: int) -> nn.ModuleDict:
            norm = nn.LayerNorm(d.width, d.layer_norm_eps)
            return nn.ModuleDict({"dense": nn.Linear(width, d.width), "LayerNorm": norm})

        projections = nn.ModuleDict({name: nn.Linear(d.width, d.width) for name in ("query", "key", "value")})
        self.attention: Any = nn.ModuleDict({"self": projections, "output": output(d.width)})
        self.intermediate: Any = nn.ModuleDict({"dense": nn.Linear(d.width, d.intermediate)})
        self.output: Any = output(d.intermediate)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        """x (B, P, S), or (T, S) where `index` is given -> the same shape."""
        attended = self.attention.output.dense(self._context(x, keys, index))
        x = self.attention.output.LayerNorm(attended + x)
        return self.output.LayerNorm(self.output.dense(gelu(self.intermediate.dense(x))) + x)

    def _context(self, x: torch.Tensor, keys: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            y = y if index is None else unpack(y, index, keys.shape)
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = (heads(projection(x)) for projection in self.attention["self"].values())
        # On a CPU in bf16, torch's fused attention takes three times as long as its parts, with gradients; in fp32 the
        # parts take 1.3 times as long as it.
        slow = query.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
        context = (attention if slow else scaled_dot_product_attention)(query, key, value, keys[:, None, None, :])
        context = context.transpose(1, 2).flatten(2)
        return context if index is None else context.flatten(0, 1).index_select(0, index)


def unpack(x: torch.Tensor, index: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Packed x (T, N) at `index` (T,) of a flat (B, P) -> (B, P, N), zeros elsewhere."""
    return x.new_zeros(shape.numel(), x.shape[1]).index_copy(0, index, x).view(*shape, -1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """scaled_dot_product_attention (B, H, P, S / H) by its parts, with a mask (B, 1, 1, P) bool."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.masked_fill_(~mask, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value
