"""Core's BERT followed by the artifact's output structure."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from comfy.text_encoders.bert import BertModel

from ...zhclip.structure import Structure
from ..messages import message

SKIP_LAYER = -2  # the hidden state that a second target is for, counted as CLIP Set Last Layer counts


@functools.lru_cache(maxsize=1024)
def warn_once(text: str) -> None:
    """Log a warning once in the life of the process."""
    logging.warning(text)


class StructureTensors(torch.nn.Module):
    """An output structure as a leaf module of parameters, which is what ComfyUI's memory management moves.

    Always fp32, whatever the text encoder's dtype: they are small, and fp16 keeps three digits of a norm.
    """

    def __init__(self, structure: Structure, device: Any) -> None:
        super().__init__()
        self.widths = structure.widths
        for name, tensor in structure.tensors().items():
            empty = torch.empty(tensor.shape, dtype=torch.float32, device=device)
            self.register_parameter(name, torch.nn.Parameter(empty, requires_grad=False))

    def forward(self, hidden: torch.Tensor, is_empty: torch.Tensor) -> torch.Tensor:
        """(B, W, S) hidden states, (B,) bool -> (B, W, D) conditioning."""
        return Structure(**dict(self.named_parameters()), widths=self.widths).apply(hidden, is_empty)


class AlignedBert(BertModel):
    """Core's BERT followed by the structures, which `config_dict` holds under "structures"."""

    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        modules = {name: StructureTensors(structure, device) for name, structure in config_dict["structures"].items()}
        self.structure, self.skip, self.pooled = modules["structure"], modules.get("skip"), modules.get("pooled")

    def forward(self, *args: Any, num_tokens: list[int], **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        """Returns (last (B, W, D), intermediate (B, W, D) or None, pooled (B, P)).

        num_tokens: each window's number of tokens up to and including its end token, counted by core; 2 is an empty
        prompt. The pooled vector is the `pooled` structure's output for the first position of the last layer, or, where
        there is none, the conditioning at the end token, as in CLIP.
        """
        last, intermediate = self.states(*args, num_tokens=num_tokens, **kwargs)
        counts = torch.tensor(num_tokens, device=last.device)
        z = self.structure(last, counts == 2)
        if intermediate is not None:
            intermediate = self.structure_of(kwargs["intermediate_output"])(intermediate, counts == 2)
        if self.pooled is not None:
            return z, intermediate, self.pooled(last[:, :1], counts == 2)[:, 0]
        return z, intermediate, z[torch.arange(len(z), device=z.device), counts - 1]

    def states(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The BERT's own last and intermediate hidden states, (B, W, S) each."""
        return super().forward(*args, **kwargs)[:2]

    def structure_of(self, layer: int) -> StructureTensors:
        """The output structure for an intermediate layer; warns where none was trained for it."""
        if self.skip is not None and self.is_skip(layer):
            return self.skip
        if not self.is_last(layer):
            warn_once(message("layer_not_trained"))
        return self.structure

    def is_last(self, layer: int) -> bool:
        """Whether that is the last layer, counted from either end."""
        return layer % self.num_layers == self.num_layers - 1

    def is_skip(self, layer: int) -> bool:
        """Whether that is the layer of clip skip."""
        return layer % self.num_layers == SKIP_LAYER % self.num_layers
