"""Graphs in ComfyUI's API format, as small functions that the server tests combine."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]
CHECKPOINT = "sd15.safetensors"
ENCODER = "encoder.safetensors"
SDXL_CHECKPOINT, SDXL_ENCODER = "sdxl.safetensors", "sdxl-encoder.safetensors"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": kind, "inputs": inputs}


def probe(text: str, name: str, file: str = ENCODER) -> Graph:
    """Loader, CLIPTextEncode and the probe: what the encoder makes of a prompt, in output/<name>.safetensors."""
    return {
        "clip": node("ZhCLIPLoader", file=file),
        "text": node("CLIPTextEncode", clip=["clip", 0], text=text),
        "probe": node("ConditioningProbe", conditioning=["text", 0], name=name),
    }


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


def schedule(graph: Graph, lora: str) -> None:
    """Give the prompt of a graph a CLIP with a LoRA that is off, by a hook, in the first half of the steps."""
    graph["hook"] = node("CreateHookLora", lora_name=lora, strength_model=1.0, strength_clip=1.0)
    graph["key1"] = node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
    graph["key2"] = node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=["key1", 0])
    graph["keys"] = node("SetHookKeyframes", hooks=["hook", 0], hook_kf=["key2", 0])
    graph["set"] = node("SetClipHooks", clip=["clip", 0], hooks=["keys", 0], apply_to_conds=True, schedule_clip=True)
    graph["text"]["inputs"]["clip"] = ["set", 0]
