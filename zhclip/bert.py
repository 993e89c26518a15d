"""BERT, with the parameter names of transformers' BertModel, for whole windows and for packed positions.

Packed, captions of different lengths are computed without the padded positions between them: linear layers, which are
nearly all of the work, see one row for each position that is computed; attention alone sees captions apart.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .schema import Dimensions


class Bert(nn.Module):
    """BertModel without pooler and dropout. Shapes below: B windows, P positions, S width, T packed positions."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.embeddings = BertEmbeddings(dimensions)
        self.encoder = BertEncoder(dimensions)

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
            hidden = self.embeddings(ids, positions)
        if index is not None and hidden.dim() == 3:
            hidden = hidden.flatten(0, 1).index_select(0, index)
        for layer in self.encoder.layer[first:last]:
            hidden = layer(hidden, keys, index)
        return hidden


class BertEmbeddings(nn.Module):
    """The sum of a word's, its type's (the first) and its position's embedding, normalised."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(d.vocabulary, d.width)
        self.position_embeddings = nn.Embedding(d.positions, d.width)
        self.token_type_embeddings = nn.Embedding(d.types, d.width)
        self.LayerNorm = nn.LayerNorm(d.width, d.layer_norm_eps)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """ids (B, P), positions (B, P) or None -> (B, P, S)."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        words = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + self.position_embeddings(positions))


class BertEncoder(nn.Module):
    """The layers, without a forward pass of their own."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(d) for _ in range(d.layers))


class BertLayer(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.attention = BertAttention(d)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d.width, d.intermediate)})
        self.output = BertOutput(d.intermediate, d)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        """x (B, P, S), or (T, S) where `index` is given -> the same shape."""
        x = self.attention(x, keys, index)
        return self.output(gelu(self.intermediate["dense"](x)), x)


class BertAttention(nn.Module):
    """Multi-head self-attention at the positions that `keys` allows."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.heads = d.heads
        self.self = nn.ModuleDict({name: nn.Linear(d.width, d.width) for name in ("query", "key", "value")})
        self.output = BertOutput(d.width, d)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        """x (B, P, S), or (T, S) where `index` is given -> the same shape."""

        def heads(y: torch.Tensor) -> torch.Tensor:
            y = y if index is None else unpack(y, index, keys.shape)
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = (heads(projection(x)) for projection in self.self.values())
        # On a CPU in bf16, torch's fused attention takes three times as long as its parts, with gradients; in fp32 the
        # parts take 1.3 times as long as it.
        slow = query.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
        context = (attention if slow else scaled_dot_product_attention)(query, key, value, keys[:, None, None, :])
        context = context.transpose(1, 2).flatten(2)
        if index is not None:
            context = context.flatten(0, 1).index_select(0, index)
        return self.output(context, x)


class BertOutput(nn.Module):
    """A linear layer, the sum with the input of the block, and a LayerNorm."""

    def __init__(self, width: int, d: Dimensions) -> None:
        super().__init__()
        self.dense = nn.Linear(width, d.width)
        self.LayerNorm = nn.LayerNorm(d.width, d.layer_norm_eps)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """x (..., width), residual (..., S) -> (..., S)."""
        return self.LayerNorm(self.dense(x) + residual)


def unpack(x: torch.Tensor, index: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Packed x (T, N) at `index` (T,) of a flat (B, P) -> (B, P, N), zeros elsewhere."""
    return x.new_zeros(shape.numel(), x.shape[1]).index_copy(0, index, x).view(*shape, -1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """scaled_dot_product_attention (B, H, P, S / H) by its parts, with a mask (B, 1, 1, P) bool."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.masked_fill_(~mask, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value
