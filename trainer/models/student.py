"""The student: a Chinese BERT, its projection, what of it is frozen and what learns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from zhclip.artifact import Artifact, load
from zhclip.bert import Bert, unpack
from zhclip.emphasis import combine, rows
from zhclip.structure import Structure, project, structures
from zhclip.tokens import PromptTokenizer

from ..base.recipe import Recipe
from ..base.settings import require
from ..progress import Listener
from .download import download_weights
from .load import ModelError, load_bert, resolve
from .tokenizer import student_tokenizer

FLAG = "student.model"


class Ridge(NamedTuple):
    """A closed-form map: weight (D, S) and bias (W, D), fp32."""

    weight: torch.Tensor
    bias: torch.Tensor


class Student(nn.Module):
    """A BERT without dropout, so that a frozen layer's output can be computed once, and an optional projection."""

    def __init__(self, bert: Bert, tokens: PromptTokenizer, mask_padding: bool = True) -> None:
        super().__init__()
        self.bert = bert
        self.tokens = tokens
        self.mask_padding = mask_padding
        self.structure = Structure()
        self.proj_weight: nn.Parameter | None = None  # (D, S)
        self.proj_bias: nn.Parameter | None = None  # (W, D)
        self.pooled: Structure | None = None
        self.pooled_weight: nn.Parameter | None = None  # (G, S)
        self.pooled_bias: nn.Parameter | None = None  # (1, G)

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Student:
        """The encoder of an artifact, with its structure, ready to encode."""
        meta = artifact.meta
        student = cls(bert_of(artifact), PromptTokenizer.from_artifact(artifact), meta.mask_padding)
        by_group = structures(artifact)
        student.structure, student.pooled = by_group["structure"], by_group.get("pooled")
        return student.requires_grad_(False).train(False)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.bert.dimensions.layers

    def set_projection(self, ridge: Ridge, pooled: Ridge | None = None) -> None:
        """Put a trainable map and bias after the last layer, and others for the pooled vector if `pooled` is given."""
        self.proj_weight, self.proj_bias = (nn.Parameter(tensor.clone()) for tensor in ridge)
        if pooled is not None:
            self.pooled_weight, self.pooled_bias = (nn.Parameter(tensor.clone()) for tensor in pooled)

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, W) ids -> (B, W) bool, True where a key may be seen."""
        return self.tokens.key_mask(ids) if self.mask_padding else torch.ones_like(ids, dtype=torch.bool)

    def forward(
        self,
        ids: torch.Tensor,
        frozen_hidden: torch.Tensor | None = None,
        depth: int = 0,
        positions: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        masked_keys: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """ids (B, P) -> vectors (B, P, D) before structure, and the pooled vectors (B, G), or None if there are none.

        frozen_hidden: (B, P, S) hidden states after `depth` layers, which then are not computed.
        positions: (B, P) of the ids in their window, by default 0 to P - 1; only padding may be left out.
        index: (T,) the positions of the flat (B, P) that are computed, all text among them; the others become zeros.
        masked_keys: (B, P) bool, further positions that attention does not see.
        """
        keys = self.keys(ids) if masked_keys is None else self.keys(ids) & ~masked_keys
        if frozen_hidden is not None:
            frozen_hidden = frozen_hidden.float()  # stored in half precision
        last = self.bert(ids, keys, positions, index, frozen_hidden, 0 if frozen_hidden is None else depth)
        bias: torch.Tensor | None = self.proj_bias
        if bias is not None and positions is not None:
            own = positions if index is None else positions.flatten()[index]
            bias = nn.functional.embedding(own, bias)  # as bias[own], whose backward is slower
        z = project(last, self.proj_weight, bias)
        z = z if index is None else unpack(z, index, keys.shape)
        if self.pooled is None and self.pooled_weight is None:
            return z, None
        first = (last if index is None else unpack(last, index, keys.shape))[:, :1]  # a window of one, as in the file
        return z, project(first, self.pooled_weight, self.pooled_bias)[:, 0]

    @torch.inference_mode()
    def encode_ids(
        self, ids: torch.Tensor, masked_keys: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, W) ids -> (B, W, D) conditioning, structure applied, and the pooled vectors (B, G) or None if there are
        none. `masked_keys` as in `forward`."""
        ids = ids.to(self.bert.device)
        masked_keys = None if masked_keys is None else masked_keys.to(ids.device)
        z, pooled = self(ids, masked_keys=masked_keys)
        empty = self.tokens.is_empty(ids)
        if self.pooled is not None and pooled is not None:
            pooled = self.pooled.apply(pooled[:, None], empty)[:, 0]
        return self.structure.apply(z, empty), pooled

    def encode(self, texts: list[str], batch: int = 64) -> torch.Tensor:
        """Captions of one window each -> (B, W, D) conditioning. A longer one keeps its first window."""
        ids = torch.tensor([self.tokens.windows(text)[0] for text in texts])
        return torch.cat([self.encode_ids(part)[0] for part in ids.split(batch)])

    def encode_prompt(self, text: str) -> torch.Tensor:
        """One prompt of any length, its syntax acted on -> (windows * W, D) conditioning, window after window."""
        windows = self.tokens.weighted_windows(text)
        batch = rows(windows)
        ids = torch.tensor([ids for ids, _ in batch])
        masked_keys = torch.tensor([[at in hidden for at in range(len(ids))] for ids, hidden in batch])
        return combine(self.encode_ids(ids, masked_keys)[0], windows).flatten(0, 1)


def bert_of(artifact: Artifact) -> Bert:
    """The artifact's BERT in fp32."""
    tensors = {name: tensor.float() for name, tensor in artifact.bert.items()}
    return Bert.from_tensors(artifact.meta.dimensions, tensors)


def load_student(
    model: str,
    window: int,
    device: torch.device | str = "cpu",
    weights: bool = True,
    progress: Listener | None = None,
) -> Student:
    """Load a BERT of Hugging Face layout, alone or inside a ChineseCLIPModel, or that of a ZhCLIP encoder file, without
    its projection; without `weights` its shapes alone. `progress` hears of a download.

    Raises ModelError if the model is of another kind, incomplete, or has fewer positions than `window`.
    """
    folder = download_weights(model, FLAG, progress) if weights else resolve(model, FLAG)
    mask_padding = True
    if folder.is_file():
        artifact = load(folder)
        bert, mask_padding = bert_of(artifact), artifact.meta.mask_padding
    else:
        bert = load_bert(folder, FLAG, weights)
    positions = bert.dimensions.positions
    if window > positions:
        raise ModelError(f"--{FLAG} {folder}: {positions} positions, and --window asks for {window}")
    student = Student(bert, student_tokenizer(model, window), mask_padding)
    return student.requires_grad_(False).train(False).to(device)


def student_from_recipe(
    recipe: Recipe, device: torch.device | str, progress: Listener | None = None, weights: bool = True
) -> Student:
    """The recipe's student, untrained."""
    model = require(recipe.student.model, FLAG, "the Chinese encoder")
    return load_student(model, recipe.window, device, weights, progress)
