"""Encode prompts by the node's CLIP, in a process that can import ComfyUI: `python encode_in_host.py JOBS.json`.

A job names the artifact, the prompts, the file to write and the way: "loaded", or "offloaded", where ComfyUI's memory
management keeps every layer out and casts it in for each use.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def main(jobs: list[dict[str, Any]]) -> None:
    """Write every job's prompts as cond.<index> (windows * W, D) and pooled.<index> (D,)."""
    sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    load_clip = pack_module("nodes.host.clip").load_clip
    for job in jobs:
        with torch.inference_mode():
            save_file(WAYS[job["way"]](load_clip(job["artifact"]), job["prompts"]), job["out"])


def pack_module(name: str) -> Any:
    """A module of the pack, imported under a package name of the importer's choosing, as ComfyUI does."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location("pack", root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec and spec.loader
    sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return importlib.import_module(f"pack.{name}")


def loaded(clip: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """By the calls that CLIPTextEncode makes."""
    return numbered([clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in prompts])


def offloaded(clip: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """By the model itself, after a load that was given room for nothing; the CLIP would first load all of it again."""
    clip.patcher.detach()
    clip.patcher.load(clip.patcher.load_device, lowvram_model_memory=1)
    streamed = [
        name
        for name, module in clip.cond_stage_model.named_modules()
        if hasattr(module, "comfy_cast_weights") and not getattr(module, "comfy_patched_weights", False)
    ]
    assert any("word_embeddings" in name for name in streamed) and len(streamed) >= 20, streamed
    clip.cond_stage_model.reset_clip_options()
    return numbered([clip.cond_stage_model.encode_token_weights(clip.tokenize(text)) for text in prompts])


def numbered(encoded: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """[((1, N, D), (1, D))] -> tensors by name."""
    conds = {f"cond.{i}": cond[0].clone() for i, (cond, _) in enumerate(encoded)}
    return conds | {f"pooled.{i}": pooled[0].clone() for i, (_, pooled) in enumerate(encoded)}


def skipped(clip: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Behind CLIPSetLastLayer at -2."""
    skip = clip.clone()
    skip.clip_layer(-2)
    return loaded(skip, prompts)


WAYS = {"loaded": loaded, "offloaded": offloaded, "skipped": skipped}

if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
