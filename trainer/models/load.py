"""Reading text encoders from a folder in Hugging Face layout, a diffusers pipeline or the hub, with every tensor given.

transformers' `from_pretrained` fills what a file lacks with random numbers and a warning; a whole ChineseCLIPModel read
as a ChineseCLIPTextModel is such a case. Here a missing tensor is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from zhclip.artifact import bert_shapes
from zhclip.bert import Bert
from zhclip.models import KINDS, SD15, CheckpointKind
from zhclip.schema import Dimensions

from ..base.errors import TrainerError, one_line

# Exact names: a pipeline's repository also holds checkpoints of many gigabytes.
CONFIGS = ["config.json", "model_index.json", "text_encoder*/config.json", "tokenizer/*"]
CONFIGS += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
CONFIGS += ["vocab.txt", "vocab.json", "merges.txt"]
HALF = "model.fp16.safetensors"  # what diffusers writes in half precision, often beside the whole file
TEXT = "zhclip-text.safetensors"  # the text encoder alone, written by trainer/models/download.py
# Names of a folder's weights in the order of preference. Other programs may have left a half beside a whole file.
WEIGHTS = ("model.safetensors", TEXT, "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin", HALF)
CHECKPOINTS = (".safetensors", ".ckpt", ".bin", ".pt")

Tensors: TypeAlias = dict[str, torch.Tensor]
BERT_TOKENS = "embeddings.word_embeddings.weight"
BERT_TYPES = ("bert", "chinese_clip", "chinese_clip_text_model")


class ModelError(TrainerError):
    """A model that cannot be used; the message names it, what is missing, and what to do."""


class Quiet(tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"disable": True})


def resolve(model: str, flag: str, patterns: list[str] | None = None, endpoint: str | None = None) -> Path:
    """A local folder or file, or the folder in the hub's cache of that id, with its configuration and tokenizer, or,
    if `patterns` are given, with the files that match them.

    endpoint: address of the hub; None: huggingface_hub's own. Raises ModelError.
    """
    path = Path(model)
    if os.path.exists(path):  # Path.exists raises for a name that is too long for the system
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.suffix in CHECKPOINTS:
        raise ModelError(f"--{flag} {model}: there is no such folder or file; give a folder, a file or a hub id")
    bars = None if patterns else Quiet  # small files are asked for in every stage
    try:
        folder = snapshot_download(model, allow_patterns=patterns or CONFIGS, endpoint=endpoint, tqdm_class=bars)
    except Exception as error:
        raise ModelError(
            f"--{flag} {model}: neither a local folder nor to be had from the hub ({one_line(error)}) "
            "Download it by hand and give its folder, or take a mirror (HF_ENDPOINT, or a run's --endpoint)."
        ) from error
    return Path(folder)


def read_config(folder: Path, flag: str) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"--{flag} {folder}: it has no config.json; give a folder in Hugging Face layout")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if type(config) is not dict:
            raise ValueError("no JSON object")
    except ValueError as error:
        raise ModelError(f"--{flag} {path}: damaged ({error}); copy or download it again") from error
    return config


def read_tokenizer(folder: Path, flag: str) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a folder. Raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"--{flag} {folder}: its tokenizer cannot be read ({one_line(error)})") from error


def text_encoder_folders(folder: Path, flag: str) -> tuple[CheckpointKind, list[Path]]:
    """The kind of checkpoint that a model's folder belongs to, and the folders of its text encoders: of a diffusers
    pipeline those named so, else the folder itself. Raises ModelError for a pipeline of another kind."""
    names = sorted(path.name for path in folder.glob("text_encoder*"))
    if not names:
        return SD15, [folder]
    for kind in KINDS:
        if names == [part.folder for part in kind.parts]:
            return kind, [folder / name for name in names]
    known = "; ".join(f"{kind.name}: {', '.join(part.folder for part in kind.parts)}" for kind in KINDS)
    raise ModelError(f"--{flag} {folder}: a pipeline with {', '.join(names)}; supported are {known}")


def tokenizer_folder(folder: Path) -> Path:
    """A pipeline's tokenizer has a folder of its own."""
    return folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; an empty list if there are none."""
    return next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), [])


def read_tensors(path: Path, flag: str, prefixes: tuple[str, ...] = ("",)) -> Tensors:
    """The tensors of a folder in Hugging Face layout, or of one .safetensors, .ckpt or .bin file, whose names begin
    with one of `prefixes`; all of them if there are no such names.

    .ckpt and .bin files are read with weights_only, which runs no code. Raises ModelError.
    """
    files = [path] if path.is_file() else weight_files(path)
    if not files:
        raise ModelError(f"--{flag} {path}: it has neither model.safetensors nor pytorch_model.bin")
    tensors: Tensors = {}
    for file in files:
        try:
            tensors |= _read_safetensors(file, prefixes) if file.suffix == ".safetensors" else _read_torch_file(file)
        except Exception as error:
            raise ModelError(f"--{flag} {file}: cannot be read ({error}); copy or download it again") from error
    return tensors


def tensor_names(file: Path, flag: str) -> list[str]:
    """Names of a checkpoint file's tensors; of a safetensors file its header alone is read. Raises ModelError."""
    if file.suffix != ".safetensors":
        return list(read_tensors(file, flag))
    try:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"--{flag} {file}: cannot be read ({error}); copy or download it again") from error


def _read_safetensors(file: Path, prefixes: tuple[str, ...]) -> Tensors:
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
        own = [name for name in names if name.startswith(prefixes)]
        return {name: opened.get_tensor(name) for name in own or names}


def _read_torch_file(file: Path) -> Tensors:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message fills a page, and advises to switch the safety off.
        raise ValueError("it is damaged, or holds objects that can run code, which are not read") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by name")
    return tensors


def prefix_of(names: Iterable[str], anchor: str) -> str | None:
    """The text before `anchor` in the shortest name that ends with it, or None."""
    ending = min((name for name in names if name.endswith(anchor)), key=len, default=None)
    return None if ending is None else ending[: -len(anchor)]


def tensors_beside(tensors: Tensors, anchor: str) -> Tensors:
    """Copies in fp32 of the tensors of floats whose names have the same prefix as `anchor`, named without it.

    The prefix is `text_model.` or none by the version of transformers, `bert.`, or that of a checkpoint file. Empty if
    there is no such anchor.
    """
    prefix = prefix_of(tensors, anchor)
    if prefix is None:
        return {}
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in own.items() if tensor.is_floating_point()}


def load_bert(folder: Path, flag: str, weights: bool = True) -> Bert:
    """The BERT of a folder, alone or inside a ChineseCLIPModel; without `weights` its shapes, with random numbers.

    Raises ModelError unless the weights are those of the configuration, and no others.
    """
    config, where = read_config(folder, flag), f"--{flag} {folder}"
    model_type = config.get("model_type")
    if model_type not in BERT_TYPES:
        raise ModelError(f"{where}: model_type is {model_type!r}; a student is one of {', '.join(BERT_TYPES)}")
    text = config.get("text_config") or config if model_type == "chinese_clip" else config
    if text.get("hidden_act", "gelu") != "gelu":
        raise ModelError(f"{where}: its activation is {text['hidden_act']}; only gelu is supported")
    dimensions = dimensions_of(BertConfig.from_dict(text))
    if dimensions.width % dimensions.heads:
        raise ModelError(f"{where}: {dimensions.heads} attention heads do not divide its width of {dimensions.width}")
    shapes = bert_shapes(dimensions)
    if not weights:
        return Bert(dimensions)
    tensors = tensors_beside(read_tensors(folder, flag), BERT_TOKENS)
    check_tensors(tensors, shapes, where)
    others = [name for name in tensors if name not in shapes and not name.startswith("pooler.")]
    if others:
        raise ModelError(f"{where}: {len(others)} tensors are not those of such a BERT, the first is {min(others)}")
    return Bert.from_tensors(dimensions, {name: tensors[name] for name in shapes})


def dimensions_of(config: BertConfig) -> Dimensions:
    """The shape that transformers' configuration describes."""
    return Dimensions(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=config.type_vocab_size,
        layer_norm_eps=config.layer_norm_eps,
    )


def check_tensors(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise ModelError, which begins with `where`, for a tensor that is missing or has another shape."""
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; download it again")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ModelError(f"{where}: {name} is {tuple(tensors[name].shape)}, its configuration says {tuple(shape)}")


def check_finite(outputs: torch.Tensor, texts: list[str], where: str) -> None:
    """Raises ModelError for the first of the texts whose output (B, ...) is not finite."""
    invalid = (~outputs.flatten(1).isfinite().all(dim=1)).nonzero()
    if len(invalid):
        raise ModelError(
            f"{where}: its output for {texts[int(invalid[0])]!r} is not finite, or too large for half precision; "
            "take another model, or leave that caption out"
        )
