"""Text encoders from a folder in Hugging Face layout, a diffusers pipeline or the hub.

A model is filled from its tensors by name, and a missing one is refused. transformers' `from_pretrained` replaces it by
random numbers and a warning, as where a whole ChineseCLIPModel is read as a ChineseCLIPTextModel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from tqdm import tqdm
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from zhclip.bert import Bert
from zhclip.models import KINDS, SD15, CheckpointKind
from zhclip.schema import Dimensions

from ..base.errors import TrainerError, one_line
from ..progress import Cancelled

# Exact names: a pipeline's repository also holds checkpoints of many gigabytes.
CONFIGS = ["config.json", "model_index.json", "text_encoder*/config.json", "tokenizer/*"]
CONFIGS += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
CONFIGS += ["vocab.txt", "vocab.json", "merges.txt"]
HALF_WEIGHTS = "model.fp16.safetensors"  # what diffusers writes in half precision, often beside the whole file
TEXT_WEIGHTS = "zhclip-text.safetensors"  # the text encoder alone, written by trainer/models/download.py
# Names of a folder's weights in the order of preference. Other programs may have left a half beside a whole file.
WEIGHTS = ["model.safetensors", TEXT_WEIGHTS, "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"]
WEIGHTS += [HALF_WEIGHTS]
CHECKPOINTS = (".safetensors", ".ckpt", ".bin", ".pt")
BERT_TOKENS = "embeddings.word_embeddings.weight"
# BertConfig's names of zhclip.schema.Dimensions, in its order.
BERT_SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
)
BERT_TYPES = ("bert", "chinese_clip", "chinese_clip_text_model")
DOWNLOAD_AGAIN = "copy or download it again"

Tensors: TypeAlias = dict[str, torch.Tensor]


class ModelError(TrainerError):
    """A model that cannot be used; the message names it, what is wrong, and what to do."""


@contextmanager
def model_errors(subject: str, hint: str = DOWNLOAD_AGAIN) -> Iterator[None]:
    """Raise what libraries raise in this block as ModelError: "SUBJECT (the error); HINT"."""
    try:
        yield
    except (Cancelled, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"{subject} ({type(error).__name__}: {one_line(error)}); {hint}") from error


class HiddenBar(tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"disable": True})


def resolve(model: str, flag: str, patterns: list[str] | None = None, endpoint: str | None = None) -> Path:
    """A local folder or file, or a hub id's folder in the hub's cache, after a download of its configuration and
    tokenizer, or of the files that match `patterns`, from the hub at `endpoint`. Raises ModelError."""
    path = Path(model)
    if os.path.exists(path):  # Path.exists raises for a name that is too long for the system
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.suffix in CHECKPOINTS:
        raise ModelError(f"--{flag} {model}: there is no such folder or file; give a folder, a file or a hub id")
    hint = "download it by hand and give its folder, or take a mirror (HF_ENDPOINT)"
    with model_errors(f"--{flag} {model}: neither a local folder nor to be had from the hub", hint):
        bar = None if patterns else HiddenBar  # of small files, which every stage asks for
        return Path(snapshot_download(model, allow_patterns=patterns or CONFIGS, endpoint=endpoint, tqdm_class=bar))


def read_config(folder: Path, flag: str) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError."""
    path = folder / "config.json"
    with model_errors(f"--{flag} {path}: no configuration in Hugging Face layout"):
        return dict[str, Any](json.loads(path.read_text(encoding="utf-8")).items())


def read_tokenizer(folder: Path, flag: str) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a folder, or of its folder `tokenizer`, as a pipeline has it. Raises ModelError."""
    folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    with model_errors(f"--{flag} {folder}: its tokenizer cannot be read"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def text_encoder_folders(folder: Path, flag: str) -> tuple[CheckpointKind, list[Path]]:
    """The kind of checkpoint that a model's folder belongs to, and the folders of its text encoders: those of a
    pipeline, else the folder itself. Raises ModelError for a pipeline of another kind."""
    names = sorted(path.name for path in folder.glob("text_encoder*"))
    if not names:
        return SD15, [folder]
    for kind in KINDS:
        if names == [part.folder for part in kind.parts]:
            return kind, [folder / name for name in names]
    known = "; ".join(f"{kind.name}: {', '.join(part.folder for part in kind.parts)}" for kind in KINDS)
    raise ModelError(f"--{flag} {folder}: a pipeline with {', '.join(names)}; supported are {known}")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; an empty list if there are none."""
    return next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), [])


def read_tensors(path: Path, flag: str, prefixes: tuple[str, ...] = ("",)) -> Tensors:
    """The tensors of a folder in Hugging Face layout, or of one .safetensors, .ckpt or .bin file. Raises ModelError.

    Of a .safetensors file only those are read whose names begin with one of `prefixes`, if there are such names.
    """
    files = [path] if path.is_file() else weight_files(path)
    if not files:
        raise ModelError(f"--{flag} {path}: it has neither model.safetensors nor pytorch_model.bin")
    tensors: Tensors = {}
    for file in files:
        with model_errors(f"--{flag} {file}: cannot be read"):
            if file.suffix != ".safetensors":
                tensors |= _read_torch_file(file)
                continue
            with safe_open(file, "pt") as opened:
                names = list(opened.keys())
                chosen = [name for name in names if name.startswith(prefixes)] or names
                tensors |= {name: opened.get_tensor(name) for name in chosen}
    return tensors


def _read_torch_file(file: Path) -> Tensors:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)  # runs no code
    except Exception as error:
        # torch's own message fills a page, and advises to switch the safety off.
        raise ValueError("it is damaged, or holds objects that can run code, which are not read") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by name")
    return tensors


def text_encoder_tensors(tensors: Tensors, anchor: str) -> Tensors:
    """Copies in fp32 of the float tensors whose names begin as that of the tensor `anchor` does, by the rest of their
    names. That prefix depends on the model's class and version: `text_model.`, `bert.` or none."""
    prefix = min((name for name in tensors if name.endswith(anchor)), key=len, default=anchor).removesuffix(anchor)
    floats = {name: t for name, t in tensors.items() if name.startswith(prefix) and t.is_floating_point()}
    return {name.removeprefix(prefix): tensor.to(torch.float32, copy=True) for name, tensor in floats.items()}


def load_bert(folder: Path, flag: str, weights: bool = True) -> Bert:
    """The BERT of a folder, alone or inside a ChineseCLIPModel; without `weights` its shapes, with random numbers.

    Raises ModelError unless the weights are those of the configuration, and no others.
    """
    config, where = read_config(folder, flag), f"--{flag} {folder}"
    model_type = config.get("model_type")
    if model_type not in BERT_TYPES:
        raise ModelError(f"{where}: model_type is {model_type!r}; a student is one of {', '.join(BERT_TYPES)}")
    with model_errors(f"{where}: its weights and config.json are not those of a BERT"):
        text = BertConfig.from_dict(config.get("text_config") or config)
        dimensions = Dimensions(*(getattr(text, name) for name in BERT_SIZES))
        if text.hidden_act != "gelu" or dimensions.width % dimensions.heads:
            raise ValueError(f"activation {text.hidden_act}, {dimensions.heads} heads of a width {dimensions.width}")
        if not weights:
            return Bert(dimensions)
        tensors = text_encoder_tensors(read_tensors(folder, flag), BERT_TOKENS)
        return Bert.from_tensors(dimensions, {n: t for n, t in tensors.items() if not n.startswith("pooler.")})


def check_finite(outputs: torch.Tensor, texts: list[str], where: str) -> None:
    """Raises ModelError for the first of the texts whose output (B, ...) is not finite."""
    invalid = (~outputs.flatten(1).isfinite().all(dim=1)).nonzero()
    if len(invalid):
        raise ModelError(
            f"{where}: its output for {texts[int(invalid[0])]!r} is not finite, or too large for half precision; "
            "take another model, or leave that caption out"
        )
