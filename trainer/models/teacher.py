"""The teacher: a checkpoint's text encoders, or a BERT, run as its own pipeline runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerBase

from zhclip.bert import Bert
from zhclip.io import digest
from zhclip.models import CheckpointKind, Part, absolute_layer
from zhclip.vectors import standardise

from ..base.comfyui import clip_tokenizer
from ..base.device import rounded_positions
from ..base.recipe import Recipe
from ..base.settings import public_name, require
from ..progress import Listener
from .clip import PREFIXES, Clip, checkpoint_kind, clip_config, load_checkpoint, load_folder
from .download import download_weights
from .load import ModelError, read_tensors, read_tokenizer, resolve, text_encoder_folders

FLAG = "teacher.model"


@dataclass
class Teacher:
    """The frozen encoders of English captions. Targets and pooled vectors are standardised where means are set."""

    models: tuple[Clip | Bert, ...]  # one for each part of `kind`; a BERT counts as SD1.5's one part
    kind: CheckpointKind
    tokenizer: PreTrainedTokenizerBase
    window: int  # positions of a caption, with start and end
    layer: int  # of the target: -1 is the hidden state that the kind's UNet reads, -2 the one before
    name: str
    mean: torch.Tensor | None = None  # (D,), as std
    std: torch.Tensor | None = None
    pooled_mean: torch.Tensor | None = None  # (G,), as pooled_std
    pooled_std: torch.Tensor | None = None

    @property
    def causal(self) -> bool:
        """True for CLIP: position 0 sees itself alone, so it is one vector for every prompt."""
        return not isinstance(self.models[0], Bert)

    @property
    def width(self) -> int:
        """Width of the target vectors, D: that of all parts."""
        return sum(shape_of(model)[0] for model in self.models)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each part of the target vectors; empty where there is one."""
        return tuple(shape_of(model)[0] for model in self.models) if len(self.models) > 1 else ()

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vectors, G; 0 where there are none."""
        last = self.models[-1]
        return last.config.projection_dim if isinstance(last, CLIPTextModelWithProjection) else 0

    @property
    def final_norm(self) -> bool:
        """Whether the states are normed. Without, a few dimensions are massive, and the states are standardised."""
        return all(part.final_norm for part in self.kind.parts)

    @property
    def teacher_layer(self) -> int:
        """Number of the target among all hidden states, -1 the last, as an artifact's metadata has it."""
        return absolute_layer(self.layer, self.kind.parts[0].layer)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights by name: final_layer_norm.bias, and l.final_layer_norm.bias where there are parts."""
        tensors: dict[str, torch.Tensor] = {}
        for part, model in zip(self.kind.parts, self.models):
            key = f"{part.key}." if len(self.models) > 1 else ""
            tensors |= {key + name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
        return digest(tensors)

    def length(self, text: str) -> int:
        """Positions that the caption takes, start and end included."""
        return caption_length(self.tokenizer, text)

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> ids (B, window) and lengths (B,) int64, start and end included. A longer caption is cut."""
        padded = {"padding": "max_length", "max_length": self.window, "truncation": True}
        batch = self.tokenizer(texts, return_tensors="pt", **padded)
        return batch.input_ids, batch.attention_mask.sum(dim=1)

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Captions -> targets (B, window, D) fp32, and pooled vectors (B, G) fp32 or None where the kind has none."""
        ids, lengths = (tensor.to(self.models[0].device) for tensor in self.tokenize(texts))
        return self.outputs(ids, lengths, torch.arange(self.window, device=ids.device).expand_as(ids))

    @torch.inference_mode()
    def outputs(
        self, ids: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """ids (B, window), lengths (B,) -> targets (B, P, D) fp32 at `positions` (B, P), all text among them once, and
        pooled vectors (B, G) or None; standardised where means are set.

        A CLIP is causal, so it runs without a mask and padded as its UNet has it, up to the last position; a BERT runs
        with its own mask, at these positions alone.
        """
        if isinstance(bert := self.models[0], Bert):
            layers = self.layer % (bert.dimensions.layers + 1)  # -1: all of them
            hidden = bert(ids.gather(1, positions), positions < lengths[:, None], positions, last=layers)
            return standardise(hidden.float(), self.mean, self.std), None
        ids = ids[:, : rounded_positions(int(positions.max()) + 1, ids.device)]
        padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        states = []
        for part, model in zip(self.kind.parts, self.models):
            assert not isinstance(model, Bert)
            hidden, last = self._hidden(part, model, ids if part.pad is None else ids.masked_fill(padding, part.pad))
            states.append(_at(hidden, positions).float())
        targets, pooled = standardise(torch.cat(states, dim=-1), self.mean, self.std), None
        if isinstance(model, CLIPTextModelWithProjection):
            # Of the last part. Not the module's own, whose rule for the end token depends on its config.json.
            pooled = model.text_projection(_at(last, lengths[:, None] - 1)[:, 0]).float()
            pooled = standardise(pooled, self.pooled_mean, self.pooled_std)
        return targets, pooled

    def _hidden(self, part: Part, model: Clip, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ids (B, P) -> a part's states, and those of its last layer through the final norm, both (B, P, D)."""
        tower = getattr(model, "text_model", model)  # transformers 5 flattened CLIPTextModel alone
        layer = absolute_layer(self.layer, part.layer)
        out = tower(input_ids=ids, output_hidden_states=layer != -1 or not part.final_norm)
        if out.hidden_states is None:
            return out.last_hidden_state, out.last_hidden_state
        hidden = out.hidden_states[layer]
        return tower.final_layer_norm(hidden) if part.final_norm else hidden, out.last_hidden_state


def shape_of(model: Clip | Bert) -> tuple[int, int, int]:
    """A text encoder's width, and its numbers of layers and positions."""
    if isinstance(model, Bert):
        return model.dimensions.width, model.dimensions.layers, model.dimensions.positions
    return model.config.hidden_size, model.config.num_hidden_layers, model.config.max_position_embeddings


def _at(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(B, W, D) at positions (B, P) -> (B, P, D)."""
    return hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))


def caption_length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Positions that a caption takes by the teacher's tokenizer, start and end included."""
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def teacher_tokenizer(model: str, fallback: str | None) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer; for a checkpoint file that of `fallback`, by default CLIP's. Raises ModelError."""
    folder = resolve(model, FLAG)
    if folder.is_file():
        folder = resolve(fallback or clip_tokenizer(), "teacher.tokenizer")
    tokenizer = read_tokenizer(folder, FLAG)
    if tokenizer.pad_token is None:
        raise ModelError(f"--{FLAG} {folder}: its tokenizer has no padding token; SD1.5's CLIP pads with its end token")
    return tokenizer


def load_teacher(
    model: str,
    window: int,
    layer: int = -1,
    tokenizer: str | None = None,
    device: torch.device | str = "cpu",
    weights: bool = True,
    progress: Listener | None = None,
) -> Teacher:
    """Load a teacher from a folder, a hub id or a checkpoint file; without `weights` with random ones of its shapes.

    Weights that are not on this machine are downloaded, with events to `progress`. Raises ModelError if the model is of
    another kind, incomplete, or has fewer positions than `window`.
    """
    path = resolve(model, FLAG)
    if path.is_file():
        kind, encoders = load_checkpoint(path, FLAG)
    else:
        kind, folders = text_encoder_folders(path, FLAG)
        for folder in folders:
            clip_config(kind, folder, FLAG)  # refuses other models before a download
        if weights:
            download_weights(model, FLAG, progress)
        encoders = tuple(load_folder(kind, part, folder, FLAG, weights) for part, folder in zip(kind.parts, folders))
    for part, encoder in zip(kind.parts, encoders):
        encoder.requires_grad_(False).train(False).to(device)
        _, layers, positions = shape_of(encoder)
        if window > positions:
            raise ModelError(f"--{FLAG} {model}: it has {positions} positions and --window asks for {window}")
        if not -layers - 1 <= absolute_layer(layer, part.layer) <= layers:
            raise ModelError(f"--teacher.layer {layer}: {model} has no such hidden state, it has {layers + 1}")
    return Teacher(encoders, kind, teacher_tokenizer(model, tokenizer), window, layer, public_name(model))


def teacher_kind(model: str) -> CheckpointKind:
    """The kind of checkpoint of a teacher, without its weights. Raises ModelError."""
    path = resolve(model, FLAG)
    return text_encoder_folders(path, FLAG)[0] if path.is_dir() else checkpoint_kind(read_tensors(path, FLAG, PREFIXES))


def teacher_from_recipe(
    recipe: Recipe, device: torch.device | str, progress: Listener | None = None, weights: bool = True
) -> Teacher:
    """The recipe's teacher."""
    teacher = recipe.teacher
    model = require(teacher.model, FLAG, "the English encoder")
    return load_teacher(model, recipe.window, teacher.layer, teacher.tokenizer, device, weights, progress)
