"""Reading published encoders: which folder, which tensors, which digest.

transformers' own from_pretrained fills what it does not find with random numbers and a warning; a whole
ChineseCLIPModel read as a ChineseCLIPTextModel is such a case. An aligned encoder must not start that way, so tensors
are read here and loaded strictly.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import safe_open
from tqdm import tqdm

from zhclip.models import KINDS

from ..base.errors import TrainerError, one_line

# Exact names: a pipeline's repository also holds checkpoints of many gigabytes that are not asked for.
TOKENIZER_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
]
ENCODERS = dict.fromkeys(part.folder for kind in KINDS for part in kind.parts)  # a pipeline's folders
SMALL = [
    "config.json",
    *TOKENIZER_FILES,
    "model_index.json",
    "tokenizer/*",
    *(f"{part}/config.json" for part in ENCODERS),
]
INDEX = "model.safetensors.index.json"
WEIGHTS = ["model.safetensors", INDEX, "model-*.safetensors"]
HALF = "model.fp16.safetensors"  # what diffusers writes for half precision; often beside the whole
OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]
PATTERNS = [*SMALL, *WEIGHTS, "text_encoder/model.safetensors"]
OLD_PATTERNS = [*OLD_WEIGHTS, "text_encoder/pytorch_model.bin"]
Module = TypeVar("Module", bound=torch.nn.Module)
CHECKPOINTS = (".safetensors", ".ckpt", ".bin", ".pt")
TEXT = "zhclip-text.safetensors"  # the text encoder alone, of a model whose weights were not downloaded whole


class Quiet(tqdm):
    """No bar: small files are asked for in every stage."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"disable": True})


class ModelError(TrainerError):
    """A model that cannot be used; the message names it, what is missing, and what to do."""


def resolve(model: str, flag: str, patterns: list[str] = PATTERNS) -> Path:
    """A local folder or file as it is, else the hub's snapshot of that id (HF_ENDPOINT chooses a mirror).

    `patterns`: the files to download; old .bin weights follow when weights were asked for in safetensors and there are
    none.
    """
    path = Path(model)
    if os.path.exists(path):  # a name too long for the system is none, where Path raises
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.suffix in CHECKPOINTS:
        raise ModelError(f"--{flag} {model}: there is no such folder or file; give a folder, a file or a hub id")
    try:
        bars = Quiet if patterns is SMALL else None
        folder = Path(snapshot_download(model, allow_patterns=patterns, tqdm_class=bars))
        if patterns is not SMALL and not list(folder.rglob("*.safetensors")):
            snapshot_download(model, allow_patterns=OLD_PATTERNS)
        gc.collect()  # closes the hub's bars, below which all later ones would be drawn
    except Exception as error:
        raise ModelError(
            f"--{flag} {model}: neither a local folder nor to be had from the hub ({one_line(error)}) "
            "Download it by hand and give its folder, or set HF_ENDPOINT to a mirror."
        ) from error
    return folder


def read_config(folder: Path, flag: str) -> dict[str, Any]:
    """The folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"--{flag} {folder}: it has no config.json; give a folder in Hugging Face layout")
    return json.loads(path.read_text(encoding="utf-8"))


def read_tensors(path: Path, flag: str, prefixes: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """All tensors of a folder in Hugging Face layout, or of one .safetensors, .ckpt or .bin file; where there are some
    whose names begin with one of `prefixes`, those alone.

    Files of Python objects are read with weights_only, which runs no code.
    """
    files = [path] if path.is_file() else weight_files(path)
    if not files:
        raise ModelError(f"--{flag} {path}: it has neither model.safetensors nor pytorch_model.bin")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors |= _read_file(file, prefixes)
        except Exception as error:
            raise ModelError(f"--{flag} {file}: cannot be read ({error}); copy or download it again") from error
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; none where there are none."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    for name in ("model.safetensors", TEXT, "pytorch_model.bin", "diffusion_pytorch_model.safetensors", HALF):
        if (folder / name).is_file():
            return [folder / name]
    return sorted(folder.glob("pytorch_model-*.bin"))


def _read_file(file: Path, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors_of:
            return {name: tensors_of.get_tensor(name) for name in _under(tensors_of.keys(), prefixes)}
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message runs over a page, and advises to switch the safety off.
        raise ValueError(
            "it is damaged, or holds beside tensors objects that can run code, which stay unread"
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by name")
    return {name: tensors[name] for name in _under(tensors, prefixes)}


def _under(names: Iterable[str], prefixes: tuple[str, ...]) -> list[str]:
    everything = list(names)
    return [name for name in everything if name.startswith(prefixes)] or everything


def under_anchor(tensors: dict[str, torch.Tensor], anchor: str) -> dict[str, torch.Tensor]:
    """`beside_anchor`, in fp32."""
    return {name: tensor.float() for name, tensor in beside_anchor(tensors, anchor).items()}


def beside_anchor(tensors: dict[str, torch.Tensor], anchor: str) -> dict[str, torch.Tensor]:
    """The tensors of floats that stand beside `anchor`, whatever prefix they carry, named without it.

    Covers transformers 4 and 5 (`text_model.` or nothing), whole two-tower models and SD1.5 checkpoints. Empty when
    the anchor is not there.
    """
    prefix = prefix_of(tensors, anchor)
    if prefix is None:
        return {}
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix) and v.is_floating_point()}


def prefix_of(names: Iterable[str], anchor: str) -> str | None:
    """What stands before `anchor` in the shortest name that ends with it, or None."""
    found = min((name for name in names if name.endswith(anchor)), key=len, default=None)
    return None if found is None else found[: -len(anchor)]


def load_strict(make: Callable[[], Module], tensors: dict[str, torch.Tensor], anchor: str, where: str) -> Module:
    """The transformers module that `make` builds, of either key layout, with these tensors as its parameters, in fp32.

    tensors: floats, named without the prefix that `anchor` has in the module. Raises ModelError, which begins with
    `where`, unless every parameter is given, and finite.
    """
    with init_empty_weights():  # drawing random numbers would take longer than reading the file
        module = make()
    prefix = prefix_of(module.state_dict(), anchor) or ""
    named = {name.removeprefix(prefix): name for name in module.state_dict()}
    wanted = {name: module.state_dict()[own].shape for name, own in named.items()}
    missing = [name for name in wanted if name not in tensors and "position_ids" not in name]
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}")
    wrong = [n for n, shape in wanted.items() if n in tensors and tensors[n].shape != shape]
    if wrong:
        raise ModelError(
            f"{where}: {wrong[0]} is {tuple(tensors[wrong[0]].shape)}, config.json says {wanted[wrong[0]]}"
        )
    own_tensors = {own: tensors[name] for name, own in named.items() if name in tensors}
    # The smallest and the largest tell as much as every value does, nine times as fast.
    spoilt = [n for n, tensor in own_tensors.items() if not torch.stack(tensor.float().aminmax()).isfinite().all()]
    if spoilt:
        raise ModelError(
            f"{where}: {spoilt[0]} holds NaN or infinity ({len(spoilt)} of {len(own_tensors)} tensors do); copy or "
            "download the model again, or take another"
        )
    own_tensors = {own: tensor.to(torch.float32, copy=True) for own, tensor in own_tensors.items()}
    module.load_state_dict(own_tensors, strict=False, assign=True)
    return module


def stand_in(make: Callable[[], Module]) -> Module:
    """The module that `make` builds, with small random numbers in place of weights: for what only its shapes decide."""
    with init_empty_weights():
        module = make()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    tensors = {}
    for name, parameter in module.named_parameters():
        times = -(-parameter.numel() // len(noise))
        tensors[name] = noise.repeat(times)[: parameter.numel()].view(parameter.shape)
    module.load_state_dict(tensors, strict=False, assign=True)
    return module


def check_finite(outputs: torch.Tensor, texts: list[str], where: str) -> None:
    """Raises ModelError for the first of the texts whose output (B, ...) is not finite."""
    spoilt = (~outputs.flatten(1).isfinite().all(dim=1)).nonzero()
    if len(spoilt):
        raise ModelError(
            f"{where}: its output for {texts[int(spoilt[0])]!r} holds NaN or infinity, or more than half precision can "
            "hold; take another model, or leave that caption out"
        )
