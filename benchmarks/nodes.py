"""The nodes' encoder beside ComfyUI's own CLIP: python -m benchmarks.nodes [--sdxl] [--quick]

Encoding: ours is what the loader node gives, 12 x 768; the other is CLIP-L, with --sdxl CLIP-L and bigG. Both have
random weights, and are called as CLIPTextEncode calls them, in one process and in turns.

Loading: the least that any loader does is safetensors' `load_file`, which maps the file, and one copy of every tensor.
All files are in the system's cache, everything is imported, and each is loaded once before.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.inputs import FIRST_IDEOGRAPH, VOCABULARY, WORDS, vocabulary
from benchmarks.rounds import ROOT, options, print_table, race
from painter.host import comfyui
from zhclip import artifact, tokenizer
from zhclip.schema import CorpusInfo, Dimensions, Meta, PartInfo, SpecialIds, TeacherInfo, TokenizerInfo

PROMPTS = {
    "no weights": (60, 0),
    "1 weighted span": (60, 1),
    "3 weighted spans": (60, 3),
    "10 weighted spans": (60, 10),
    "3 windows": (200, 0),
}
"""Tokens of a prompt, and how many of them have a weight."""


def pack_module(name: str) -> Any:
    """A module of the pack, imported under a package name of its own, as ComfyUI does."""
    if "pack" not in sys.modules:
        init = ROOT / "__init__.py"
        spec = importlib.util.spec_from_file_location("pack", init, submodule_search_locations=[str(ROOT)])
        assert spec and spec.loader
        sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"pack.{name}")


def encoder_file(path: Path, quick: bool, dtype: torch.dtype, sdxl: bool) -> Path:
    """Write an artifact of random weights as export does, of full size or tiny, with all that is optional but skip."""
    layers, width, size = (2, 64, 400) if quick else (12, 768, VOCABULARY)
    parts = (PartInfo("l", 768), PartInfo("g", 1280))[: 1 + sdxl]
    pooled = 1280 if sdxl else 0
    meta = Meta(
        dimensions=Dimensions(layers, width, width // 64, 4 * width, size, 77, 2, 1e-12),
        special_ids=SpecialIds(start=2, end=3, pad=0, unknown=1),
        tokenizer=TokenizerInfo("wordpiece", True, True, True, True),
        window=77,
        mask_padding=True,
        position0="stored",
        teacher=TeacherInfo("random", "0" * 64, -2 if sdxl else -1, 768 + pooled),
        parts=parts,
        pooled=pooled,
        strategy="random",
        corpus=CorpusInfo(0, "0" * 64),
        licence="Apache-2.0",
    )
    generator = torch.Generator().manual_seed(0)
    groups: dict[str, Any] = {"bert": {}, "structure": {}, "pooled": {}}
    for full_name, shape in artifact.expected_shapes(meta)[0].items():
        group, _, name = full_name.partition(".")
        if group not in groups or (name in ("mean", "std") and not sdxl):  # only SDXL's are standardised
            continue
        if name.endswith(("LayerNorm.weight", "std", "norms")):
            groups[group][name] = torch.ones(shape, dtype=dtype)
        else:
            groups[group][name] = (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(dtype)
    artifact.save(artifact.Artifact(meta=meta, tokenizer=tokenizer.pack(vocabulary(size)), **groups), path)
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


def load_stock_clip(*paths: Path | str) -> Any:
    """ComfyUI's own CLIP as its loaders give it, for Stable Diffusion 1.5, or of two files for SDXL."""
    sd = importlib.import_module("comfy.sd")
    return sd.load_clip([*map(str, paths)], clip_type=sd.CLIPType.STABLE_DIFFUSION)


def prompt(chinese: bool, length: int, spans: int, first: int) -> str:
    """A prompt of `length` tokens of our vocabulary or CLIP's, a comma at every tenth, `spans` of them with a weight;
    another one for another `first`."""
    words = [chr(FIRST_IDEOGRAPH + at) for at in range(200)] if chinese else WORDS
    tokens = ["," if at % 10 == 9 else words[(first + at) % len(words)] for at in range(length)]
    for span in range(spans):
        at = span * (length // spans)
        tokens[at] = f"({tokens[at]}:1.{span % 9 + 1})"
    return ("" if chinese else " ").join(tokens)


def encode_next(clip: Any, chinese: bool, length: int, spans: int) -> Callable[[], torch.Tensor]:
    """A call that encodes another prompt each time, as CLIPTextEncode does."""
    first = count()
    return lambda: clip.encode_from_tokens_scheduled(clip.tokenize(prompt(chinese, length, spans, next(first))))[0][0]


def read_and_copy(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file in memory of their own."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def main() -> None:
    """Write the files, time every case, print the tables."""
    parser = options(__doc__)
    parser.add_argument("--sdxl", action="store_true", help="an encoder for SDXL beside its two")
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder; by default the one of the tests")
    parser.add_argument("--options", default="--cpu", help="what ComfyUI is started with, in one string")
    given = parser.parse_args()
    sys.path.insert(0, str(given.comfyui or comfyui()))
    sys.argv[1:] = given.options.split()  # which ComfyUI reads
    importlib.import_module("comfy.options").enable_args_parsing()
    load_clip = pack_module("nodes.host.clip").load_clip
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        fp16 = encoder_file(folder / "fp16.safetensors", given.quick, torch.float16, given.sdxl)
        fp32 = encoder_file(folder / "fp32.safetensors", given.quick, torch.float32, given.sdxl)
        clip_l = clip_file(folder / "clip_l.safetensors")
        clip_g = [clip_file(folder / "clip_g.safetensors", "comfy.sdxl_clip", "SDXLClipG")] if given.sdxl else []
        stock, ours = load_stock_clip(clip_l, *clip_g), load_clip(str(fp32))
        encoding = {
            name: race(encode_next(stock, False, *case), encode_next(ours, True, *case), given.quick, repeat=4)
            for name, case in PROMPTS.items()
        }
        print_table(encoding, "stock CLIP", f"encoding, ComfyUI {given.options}")
        loads = {
            "fp16 file, to read and copy": (lambda: read_and_copy(fp16), lambda: load_clip(str(fp16))),
            "fp32 file, to read and copy": (lambda: read_and_copy(fp32), lambda: load_clip(str(fp32))),
            "fp16 file, to ComfyUI's CLIP": (lambda: load_stock_clip(clip_l, *clip_g), lambda: load_clip(str(fp16))),
            "CLIP-L by ComfyUI, to read and copy": (lambda: read_and_copy(clip_l), lambda: load_stock_clip(clip_l)),
        }
        loading = {name: race(*calls, given.quick, repeat=3) for name, calls in loads.items()}
    print_table(loading, "plain", f"loading, ComfyUI {given.options}")


if __name__ == "__main__":
    main()
