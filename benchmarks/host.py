"""ComfyUI in this process, and what its benchmarks load and encode: files of random weights, prompts."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.rounds import ROOT, options
from benchmarks.texts import FIRST_IDEOGRAPH, VOCABULARY, WORDS, pieces
from painter.host import comfyui
from zhclip import artifact, tokenizer
from zhclip.schema import CorpusInfo, Dimensions, Meta, PartInfo, SpecialIds, TeacherInfo, TokenizerInfo


def arguments(doc: str | None, *switches: str) -> argparse.Namespace:
    """The options of a benchmark of the nodes and its own switches; puts ComfyUI on the import path, its command line
    read."""
    parser = options(doc)
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder; by default the one of the tests")
    parser.add_argument("--options", default="--cpu", help="what ComfyUI is started with, in one string")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    for switch in switches:
        parser.add_argument(switch, action="store_true")
    given = parser.parse_args()
    try:
        given.comfyui = given.comfyui or comfyui()
    except RuntimeError as error:
        parser.error(f"--comfyui: {error}")
    sys.path.insert(0, str(given.comfyui))  # ComfyUI is no package that could be installed
    sys.argv[1:] = given.options.split()  # which it reads as well
    importlib.import_module("comfy.options").enable_args_parsing()
    return given


def pack(name: str) -> Any:
    """A module of the pack, imported under a package of its own, as ComfyUI does."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    if "pack" not in sys.modules:
        sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"pack.{name}")


def encoder_file(path: Path, quick: bool, dtype: torch.dtype = torch.float32, sdxl: bool = False) -> Path:
    """Write an artifact of random weights as export does, of full size or tiny, with all that is optional."""
    layers, width, size = (2, 64, 400) if quick else (12, 768, VOCABULARY)
    window, pooled = 77, 1280 if sdxl else 0
    parts = (PartInfo("l", 768), PartInfo("g", 1280))[: 1 + sdxl]
    teacher = 768 + pooled
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    dimensions = Dimensions(layers, width, width // 64, 4 * width, size, window, 2, 1e-12)
    bert = {name: random(*shape, scale=shape[-1] ** -0.5) for name, shape in artifact.bert_shapes(dimensions).items()}
    bert |= {name: torch.ones_like(value) for name, value in bert.items() if name.endswith("LayerNorm.weight")}
    ids, corpus = SpecialIds(start=2, end=3, pad=0, unknown=1), CorpusInfo(0, "0" * 64)
    of = TeacherInfo("random", "0" * 64, -2 if sdxl else -1, teacher)
    kinds: dict[str, Any] = dict(mask_padding=True, position0="stored", strategy="random", licence="Apache-2.0")
    reading = TokenizerInfo("wordpiece", True, True, True, True)
    kinds |= dict(teacher=of, corpus=corpus, parts=parts, pooled=pooled)
    meta = Meta(dimensions, ids, reading, window, **kinds)
    standard = {"mean": random(teacher), "std": 1 + random(teacher, scale=0.1)} if sdxl else {}
    encoder = artifact.Artifact(
        meta=meta,
        bert=bert,
        tokenizer=tokenizer.pack(pieces(size)),
        structure={
            "proj_weight": random(teacher, width, scale=width**-0.5),
            "proj_bias": random(window, teacher, scale=0.1),
            "position0": random(teacher),
            "empty": random(window, teacher),
            "norms": 27 + random(window, len(parts), scale=0.1),
        }
        | standard,
        pooled={"proj_weight": random(pooled, width, scale=width**-0.5)} if sdxl else {},
    )
    artifact.save(encoder, path)
    return path


def clip_file(path: Path, module: str = "comfy.sd1_clip", kind: str = "SDClipModel") -> Path:
    """Write a CLIP of random weights, CLIP-L by default, as the file that ComfyUI's own CLIP loader reads, in fp16 as
    checkpoints are."""
    model = getattr(importlib.import_module(module), kind)(dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.full(value.shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
        if value.ndim < 2
        else (torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5).half()
        for name, value in model.transformer.state_dict().items()
    }
    save_file(tensors, path)
    return path


def own_clip(*paths: Path | str) -> Any:
    """The checkpoint's own CLIP, as the stock loaders give it for Stable Diffusion 1.5, or of two files for SDXL."""
    sd = importlib.import_module("comfy.sd")
    return sd.load_clip([*map(str, paths)], clip_type=sd.CLIPType.STABLE_DIFFUSION)


def prompt(chinese: bool, length: int = 60, spans: int = 0, first: int = 0) -> str:
    """`length` tokens, in our tokenizer's or in CLIP's vocabulary, another prompt for another `first`: a comma behind
    every tenth, and `spans` tokens with a weight."""
    known = [chr(FIRST_IDEOGRAPH + at) for at in range(200)] if chinese else WORDS
    pieces = ["," if at % 10 == 9 else known[(first + at) % len(known)] for at in range(length)]
    for at, place in zip(range(spans), count(0, length // max(spans, 1))):
        pieces[place] = f"({pieces[place]}:1.{at % 9 + 1})"
    return ("" if chinese else " ").join(pieces)
