"""The teacher: SD1.5's text encoder, or a BERT, run as its own pipeline runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase

from zhclip.files import digest

from ..base import Recipe, clip_tokenizer, public_name, require
from .bert import bare_bert
from .download import part_of, small_files, text_encoder
from .weights import CHECKPOINTS, ModelError, load_strict, read_config, read_tensors, stand_in, under_anchor

FLAG = "teacher.model"
CLIP_ANCHOR = "embeddings.token_embedding.weight"
BERT_ANCHOR = "embeddings.word_embeddings.weight"


@dataclass
class Teacher:
    """A frozen encoder of English captions. `causal` teachers have a constant first position."""

    model: CLIPTextModel | BertModel
    tokenizer: PreTrainedTokenizerBase
    window: int
    layer: int
    name: str

    @property
    def causal(self) -> bool:
        """True for CLIP: position 0 sees itself alone, so it is one vector for every prompt."""
        return isinstance(self.model, CLIPTextModel)

    @property
    def width(self) -> int:
        """Width of the target vectors."""
        return self.model.config.hidden_size

    def sha256(self) -> str:
        """Digest of the weights."""
        return digest(self.model.state_dict())

    def length(self, text: str) -> int:
        """Positions that the caption takes, start and end included."""
        return caption_length(self.tokenizer, text)

    def tokens(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> ids (B, window) and lengths (B,) int64, start and end included. A longer caption is cut."""
        batch = self.tokenizer(
            texts, padding="max_length", max_length=self.window, truncation=True, return_tensors="pt"
        )
        return batch.input_ids, batch.attention_mask.sum(dim=1)

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> targets (B, window, width) fp32 and lengths (B,)."""
        ids, lengths = (tensor.to(self.model.device) for tensor in self.tokens(texts))
        return self.states(ids, lengths, torch.arange(self.window, device=ids.device).expand_as(ids)), lengths

    @torch.inference_mode()
    def states(self, ids: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """ids (B, window), lengths (B,) -> targets (B, P, width) fp32 at `positions` (B, P), all text among them once.

        CLIP runs without an attention mask and padded with its end token, as SD1.5 runs it, up to the last of the
        positions: it is causal. A BERT runs with its own mask, at these positions alone.
        """
        if self.causal:
            ids = ids[:, : int(positions.max()) + 1]
            out = self.model(input_ids=ids, output_hidden_states=self.layer != -1)
        else:
            mask = (positions < lengths[:, None]).long()
            ids = ids.gather(1, positions)
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=self.layer != -1
            )
        hidden = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
        if not self.causal:
            return hidden.float()
        hidden = hidden if self.layer == -1 else self._final_norm(hidden)
        return hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1])).float()

    def _final_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        # transformers 5 flattened CLIPTextModel; 4 keeps the tower under .text_model
        return getattr(self.model, "text_model", self.model).final_layer_norm(hidden)


def caption_length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Positions that a caption takes by the teacher's tokenizer, start and end included."""
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def load_tokenizer(model: str, fallback: str | None) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer; for a checkpoint file `fallback`'s, by default CLIP's."""
    path = small_files(model, FLAG)
    source = small_files(fallback or clip_tokenizer(), "teacher.tokenizer") if path.is_file() else path
    folder = source / "tokenizer" if (source / "model_index.json").is_file() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"--{FLAG} {folder}: its tokenizer cannot be read ({error})") from error
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
) -> Teacher:
    """Load a teacher from a folder, a hub id or an SD1.5 checkpoint file; without `weights` its shapes alone, for which
    no weights are downloaded.

    Raises ModelError when the model is of another kind, incomplete, or has fewer positions than `window`.
    """
    path = text_encoder(model, FLAG) if weights else small_files(model, FLAG)
    encoder = _from_checkpoint(path) if path.is_file() else _from_folder(part_of(path), weights)
    positions = encoder.config.max_position_embeddings
    if window > positions:
        raise ModelError(f"--{FLAG} {model}: it has {positions} positions and --window asks for {window}")
    encoder.requires_grad_(False).train(False).to(device)
    return Teacher(encoder, load_tokenizer(model, tokenizer), window, layer, public_name(model) or model)


def _from_folder(folder: Path, weights: bool) -> CLIPTextModel | BertModel:
    config = read_config(folder, FLAG)
    kind = config.get("model_type")
    make: Callable[[], CLIPTextModel | BertModel]
    if kind in ("clip", "clip_text_model"):
        text = config.get("text_config", config) if kind == "clip" else config
        make, anchor = functools.partial(CLIPTextModel, CLIPTextConfig(**_arguments(text))), CLIP_ANCHOR
    elif kind == "bert":
        make, anchor = functools.partial(bare_bert, BertConfig(**_arguments(config))), BERT_ANCHOR
    else:
        raise ModelError(f"--{FLAG} {folder}: model_type is {kind!r}; a teacher is clip, clip_text_model or bert")
    if not weights:
        return stand_in(make)
    return load_strict(make, under_anchor(read_tensors(folder, FLAG), anchor), anchor, f"--{FLAG} {folder}")


def _from_checkpoint(path: Path) -> CLIPTextModel:
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"--{FLAG} {path}: not a checkpoint file ({', '.join(CHECKPOINTS)})")
    tensors = under_anchor(read_tensors(path, FLAG), CLIP_ANCHOR)
    if not tensors:
        raise ModelError(f"--{FLAG} {path}: it holds no CLIP text encoder as SD1.5 checkpoints do ({CLIP_ANCHOR})")
    vocabulary, width = tensors[CLIP_ANCHOR].shape
    # A checkpoint has no config.json: shapes give all but the head count, and CLIP's heads are 64 wide.
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.bias"].shape[0],
        num_hidden_layers=sum(name.endswith("mlp.fc1.bias") for name in tensors),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=tensors["embeddings.position_embedding.weight"].shape[0],
        hidden_act="quick_gelu",
        eos_token_id=vocabulary - 1,
    )
    return load_strict(functools.partial(CLIPTextModel, config), tensors, CLIP_ANCHOR, f"--{FLAG} {path}")


def _arguments(config: dict) -> dict:
    return {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "model_type", "transformers_version", "dtype", "torch_dtype")
    }


def teacher_of(recipe: Recipe, device: torch.device | str) -> Teacher:
    """The recipe's teacher."""
    model = require(recipe.teacher.model, "teacher.model", "the English encoder")
    return load_teacher(model, recipe.window, recipe.teacher.layer, recipe.teacher.tokenizer, device)
