"""A layer of BERT over captions of unlike lengths at once, without a padded position between them.

All linear maps, which are nearly all of the work, see one row a position that is there; attention alone sees captions
apart, each filled up to the longest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def spread(x: torch.Tensor, kept: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Positions (T, N), put where `kept` (T,) says in a flat (B, P) -> (B, P, N), zero elsewhere."""
    return x.new_zeros(shape.numel(), x.shape[1]).index_copy(0, kept, x).view(*shape, -1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention (B, H, P, S / H) by its parts, at the keys that `keys` (B, 1, 1, P) bool names."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    shares = scores.masked_fill_(~keys, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return shares.to(value.dtype) @ value


def layer(block: Any, x: torch.Tensor, keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """transformers' BertLayer on (T, S), those positions of (B, P) that `kept` (T,) tells -> (T, S).

    keys: (B, P) bool, True where a key may be seen; nowhere where a position is not kept.
    """
    own = block.attention.self

    def heads(y: torch.Tensor) -> torch.Tensor:
        return spread(y, kept, keys.shape).unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = heads(own.query(x)), heads(own.key(x)), heads(own.value(x))  # each (B, H, P, S / H)
    # In bf16 torch's fused attention of the CPU takes three times its parts' time, forwards and backwards; in fp32 its
    # parts take 1.3 times as long as it.
    slow = query.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
    seen = (attention if slow else scaled_dot_product_attention)(query, key, value, keys[:, None, None, :])
    seen = seen.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, kept)
    x = block.attention.output(seen, x)
    return block.output(block.intermediate(x), x)
