"""Encode and paint under ComfyUI's memory modes, in a process that can import it: `python options_in_host.py JOB.json`.

A job names the artifact, the checkpoint, the prompts and the folder to write <mode>.safetensors to. Without a graphics
card, ComfyUI puts the modes aside: --cpu excludes --lowvram and --novram, and a CPU is always given the whole model. So
the mode is set where those flags set it, and the CPU is declared a card without room; all else is ComfyUI's own.
(On a real card both flags keep text encoders on the CPU, in 0.3.75 at least, so this is the harder case.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file

ROOM = 64 * 2**20
HEAVIER = 2**20  # times: 0.3.64 grants each model 128 MB whatever there is, which is more than these take


def main(job: dict[str, Any]) -> None:
    """Write cond.<index> of every prompt, a picture, and how many layers of each model were left outside the card."""
    sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management as memory
    import comfy.sd

    import nodes

    load_clip = pack_module("nodes.host.clip").load_clip
    found = memory.is_device_cpu, memory.get_free_memory
    size = memory.module_size
    for mode in ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"):
        memory.unload_all_models()
        memory.is_device_cpu, memory.get_free_memory = found
        memory.module_size = size if mode == "NORMAL_VRAM" else lambda module: size(module) * HEAVIER
        with torch.inference_mode():
            model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(job["checkpoint"], output_clip=False)
            if mode != "NORMAL_VRAM":
                memory.vram_state = memory.VRAMState[mode]
                memory.is_device_cpu, memory.get_free_memory = lambda _: False, no_room
            clip = load_clip(job["artifact"])
            made = paint(nodes, clip, model, vae, job["prompts"])
        made["streamed.clip"] = torch.tensor(streamed(clip.cond_stage_model))
        made["streamed.model"] = torch.tensor(streamed(model.model))
        save_file(made, Path(job["out"]) / f"{mode}.safetensors")


def no_room(device: Any = None, torch_free_too: bool = False) -> Any:
    """Memory of a card that is all but full: ComfyUI sets more than that aside before it places a model."""
    return (ROOM, ROOM) if torch_free_too else ROOM


def paint(nodes: Any, clip: Any, model: Any, vae: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """By the stock nodes, all through ComfyUI's own loading."""
    (none,) = nodes.CLIPTextEncode().encode(clip, "")
    conds = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in prompts]
    (latent,) = nodes.EmptyLatentImage().generate(32, 32)
    (sampled,) = nodes.common_ksampler(model, 1, 1, 4.0, "euler", "normal", conds[-1], none, latent)
    (picture,) = nodes.VAEDecode().decode(vae, sampled)
    # A box of GLIGEN carries the pooled vector of its words, which the node asks the CLIP for.
    ((_, gligen),) = nodes.GLIGENTextBoxApply().append(none, clip, None, prompts[0], 64, 64, 0, 0)[0]
    tensors = {f"cond.{i}": cond[0][0] for i, cond in enumerate(conds)}
    tensors |= {"picture": picture, "gligen": gligen["gligen"][2][0][0], "pooled": conds[0][0][1]["pooled_output"]}
    return {name: tensor.float().contiguous().clone() for name, tensor in tensors.items()}


def streamed(model: Any) -> int:
    """Layers whose weights stay outside the card and are brought in for each use."""
    layers = [module for module in model.modules() if hasattr(module, "comfy_cast_weights")]
    # Not by prev_comfy_cast_weights: versions since 2026 cast loaded text encoders too.
    return sum(not getattr(layer, "comfy_patched_weights", False) for layer in layers)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
