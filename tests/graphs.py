"""Graphs in ComfyUI's API format, as small functions that the server tests combine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Graph = dict[str, dict[str, Any]]
Workflow = dict[str, Any]
FOLDER = Path(__file__).resolve().parent.parent / "example_workflows"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.json"))
CHECKPOINT = "sd15.safetensors"
ENCODER = "encoder.safetensors"
SDXL_CHECKPOINT, SDXL_ENCODER = "sdxl.safetensors", "sdxl-encoder.safetensors"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": kind, "inputs": inputs}


def encode(text: str, file: str = ENCODER) -> Graph:
    """Loader and CLIPTextEncode: the nodes `clip` and `text`."""
    return {
        "clip": node("ZhCLIPLoader", file=file),
        "text": node("CLIPTextEncode", clip=["clip", 0], text=text),
    }


def probe(text: str, name: str, file: str = ENCODER) -> Graph:
    """`encode` and the probe: what the encoder makes of a prompt, in output/<name>.safetensors."""
    return encode(text, file) | {"probe": node("ConditioningProbe", conditioning=["text", 0], name=name)}


def paint(text: str, name: str, file: str = ENCODER, size: int = 64, steps: int = 2) -> Graph:
    """A whole picture: checkpoint, loader (with the MODEL's check), prompts, sampler, VAE, file."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "clip": node("ZhCLIPLoader", file=file, model=["ckpt", 0]),
        "text": node("CLIPTextEncode", clip=["clip", 0], text=text),
        "none": node("CLIPTextEncode", clip=["clip", 0], text=""),
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sample": sampler(["text", 0], steps),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=name),
    }


def sampler(positive: list[Any], steps: int = 2) -> dict[str, Any]:
    """A KSampler of the nodes in `paint`, with another positive conditioning."""
    return node(
        "KSampler",
        model=["ckpt", 0],
        positive=positive,
        negative=["none", 0],
        latent_image=["latent", 0],
        seed=1,
        steps=steps,
        cfg=4.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )


def load_lora(lora: str, clip: list[Any], strength: float = 1.0) -> dict[str, Any]:
    """A LoraLoader on the checkpoint's MODEL and a CLIP."""
    return node("LoraLoader", model=["ckpt", 0], clip=clip, lora_name=lora, strength_model=1.0, strength_clip=strength)


def hook(lora: str, clip: list[Any], start: float | None = None) -> Graph:
    """Nodes that put a LoRA on a CLIP by a hook, off until the share `start` of sampling if one is given. Node `hook`
    gives the CLIP."""
    graph = {"hook.lora": node("CreateHookLora", lora_name=lora, strength_model=1.0, strength_clip=1.0)}
    if start is not None:
        graph["hook.0"] = node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
        graph["hook.1"] = node("CreateHookKeyframe", strength_mult=1.0, start_percent=start, prev_hook_kf=["hook.0", 0])
        graph["hook.keys"] = node("SetHookKeyframes", hooks=["hook.lora", 0], hook_kf=["hook.1", 0])
    hooks = ["hook.lora" if start is None else "hook.keys", 0]
    return graph | {"hook": node("SetClipHooks", clip=clip, hooks=hooks, apply_to_conds=True, schedule_clip=True)}


def save_lora(path: Path, matrices: dict[str, tuple[int, int]]) -> str:
    """Write a random LoRA for matrices of these names and shapes (out, in). Returns the file's name."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (out, inner) in matrices.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn((out, 4), generator=generator)
        tensors[f"{name}.lora_down.weight"] = torch.randn((4, inner), generator=generator)
    save_file(tensors, path)
    return path.name


def workflow(name: str) -> Workflow:
    """An example workflow as the front end stores it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
