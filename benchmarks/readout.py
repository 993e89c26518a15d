"""What a diffusion network reads out of conditioning, and which words can be seen in that.

The read-out is the painter's frozen cross-attention, learnt on English states alone: what its 7 layers attend to in the
keys and values of a conditioning, for queries that its own sampling makes. A word's probe is a direction of read-outs,
fitted on English captions that have or lack the word. Neither knows how prompt weights are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from painter.drawable import held_out_prompts
from painter.paint import paint

QUERIES = 48
PROMPTS = 8
STEPS = 5
SHRINKAGE = 0.1


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer: queries (Q, C) that it met, to_k and to_v (C, D), its number of heads."""

    queries: Tensor
    key: Tensor
    value: Tensor
    heads: int


def layers(network: UNet2DConditionModel, encode: Callable[[list[str]], Tensor]) -> list[Layer]:
    """Paint a few prompts with the network, and keep from each cross-attention layer a sample of its queries.

    `encode` gives the conditioning (B, 24, 384) that the network was trained on.
    """
    attentions = [module for name, module in network.named_modules() if name.endswith("attn2")]
    met: list[list[Tensor]] = [[] for _ in attentions]
    for attention, kept in zip(attentions, met):
        attention.to_q.register_forward_hook(
            lambda _module, _input, output, kept=kept: kept.append(output.flatten(0, 1))
        )
    prompts = [prompt.en for prompt in held_out_prompts()[:PROMPTS]]
    states = encode([*prompts, ""])
    paint(network, states[:-1], states[-1:], steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    out = []
    for attention, kept in zip(attentions, met):
        queries = torch.cat(kept)
        chosen = torch.randperm(len(queries), generator=generator)[:QUERIES]
        out.append(Layer(queries[chosen], attention.to_k.weight.data, attention.to_v.weight.data, attention.heads))
    return out


@torch.inference_mode()
def attended(z: Tensor, among: list[Layer]) -> Tensor:
    """(B, W, D) conditioning -> (B, R): each layer's attention output, averaged over its queries, side by side."""
    out = []
    for layer in among:
        split = (layer.heads, -1)
        q = layer.queries.unflatten(-1, split).transpose(0, 1)  # (heads, Q, C / heads)
        k = (z @ layer.key.T).unflatten(-1, split).transpose(1, 2)  # (B, heads, W, C / heads)
        v = (z @ layer.value.T).unflatten(-1, split).transpose(1, 2)
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        out.append((weights @ v).mean(dim=2).flatten(1))
    return torch.cat(out, dim=1)


@torch.inference_mode()
def keys_and_values(z: Tensor, among: list[Layer]) -> Tensor:
    """(B, W, D) conditioning -> (B, R): each layer's keys and values, averaged over positions, side by side."""
    mean = z.mean(dim=1)
    return torch.cat([mean @ matrix.T for layer in among for matrix in (layer.key, layer.value)], dim=1)


@dataclass(frozen=True)
class Probes:
    """A linear score for each word: 0 for the mean read-out of captions that lack it, 1 of those that have it."""

    weight: Tensor  # (words, R)
    bias: Tensor  # (words,)

    @classmethod
    def fit(cls, readouts: Tensor, present: Tensor) -> Probes:
        """Fisher's linear discriminant, its covariance shrunk towards a multiple of the identity.

        readouts: (N, R); present: (N, words) bool, each word in some captions and not in all.
        """
        x, has = readouts.double(), present.double()
        centre = x.mean(dim=0)
        with_word = has.T @ x / has.sum(dim=0)[:, None]
        without = (1 - has).T @ x / (1 - has).sum(dim=0)[:, None]
        covariance = (x - centre).T @ (x - centre) / len(x)
        shrunk = covariance + SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(centre)).to(covariance)
        direction = torch.linalg.solve(shrunk, (with_word - without).T).T
        weight = direction / (direction * (with_word - without)).sum(dim=1, keepdim=True)
        return cls(weight.float(), -(weight * without).sum(dim=1).float())

    def score(self, readouts: Tensor) -> Tensor:
        """(B, R) -> (B, words)."""
        return readouts @ self.weight.T + self.bias


def auc(scores: Tensor, present: Tensor) -> float:
    """How often a caption that has the word scores above one that lacks it. (N,), (N,) bool."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[scores.argsort()] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    has, lacks = int(present.sum()), int((~present).sum())
    return float((ranks[present].sum() - has * (has + 1) / 2) / (has * lacks))
