"""Runs `module.function ARGUMENTS` of this folder in a process that can import ComfyUI, and prints its result as JSON.

host.in_host starts it. Functions of this file: encoding by the node's CLIP, ComfyUI's memory modes, the import of the
pack, and ComfyUI's own parser of weights.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """ComfyUI's command line is read before comfy.* is imported, as by its main.py."""
    name, *arguments = sys.argv[1:]
    sys.argv = [sys.argv[0], "--cpu", os.environ["TEXT_ENCODER_PRECISION"]]
    import comfy.options

    comfy.options.enable_args_parsing()
    module, _, function = name.rpartition(".")
    print(json.dumps(getattr(importlib.import_module(module), function)(*arguments)))


def pack_module(name: str) -> Any:
    """A module of the pack, imported under a package name of the importer's choosing, as ComfyUI does."""
    if "pack" not in sys.modules:
        path, folders = ROOT / "__init__.py", [str(ROOT)]
        spec = importlib.util.spec_from_file_location("pack", path, submodule_search_locations=folders)
        assert spec and spec.loader
        sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"pack.{name}") if name else sys.modules["pack"]


def load_clip(path: str) -> Any:
    """The node's CLIP of an encoder."""
    return pack_module("nodes.host.clip").load_clip(path)


@torch.inference_mode()
def encode(jobs: str) -> None:
    """For each job of a JSON file write its prompts as cond.<index> (windows * W, D) and pooled.<index> (D,).

    A job has the artifact, the prompts, the output file and the mode: "loaded"; "skipped", after CLIP Set Last Layer at
    -2; or "offloaded", where ComfyUI's memory management casts each layer in for each use.
    """
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        clip = load_clip(job["artifact"])
        if job["mode"] == "offloaded":
            offload(clip)
            model = clip.cond_stage_model  # the CLIP itself would load it again
            encoded = [model.encode_token_weights(clip.tokenize(text)) for text in job["prompts"]]
        else:
            if job["mode"] == "skipped":
                clip.clip_layer(-2)
            encoded = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in job["prompts"]]
        conds = {f"cond.{i}": cond[0].clone() for i, (cond, _) in enumerate(encoded)}
        save_file(conds | {f"pooled.{i}": pooled[0].clone() for i, (_, pooled) in enumerate(encoded)}, job["out"])


def offload(clip: Any) -> None:
    """Load the CLIP into no memory at all."""
    clip.patcher.detach()
    clip.patcher.load(clip.patcher.load_device, lowvram_model_memory=1)
    assert streamed(clip.cond_stage_model) >= 20
    clip.cond_stage_model.reset_clip_options()


def streamed(model: Any) -> int:
    """Number of layers whose weights stay outside the device and are cast in for each use."""
    layers = [module for module in model.modules() if hasattr(module, "comfy_cast_weights")]
    # Not by prev_comfy_cast_weights: versions since 2026 cast loaded text encoders too.
    return sum(not getattr(layer, "comfy_patched_weights", False) for layer in layers)


def memory_modes(job: str) -> None:
    """Encode and paint under each memory mode, and write what came out as OUT/<mode>.safetensors.

    Without a graphics card ComfyUI has no modes: --cpu excludes --lowvram and --novram, and a CPU is given the whole
    model. So the mode is set where those flags set it, and the CPU is declared a device without free memory. (On a real
    card both flags keep text encoders on the CPU, in 0.3.75 at least, so this is the harder case.)
    """
    import comfy.model_management as memory
    import comfy.sd

    given = json.loads(Path(job).read_text(encoding="utf-8"))
    is_cpu, free_memory, module_size = memory.is_device_cpu, memory.get_free_memory, memory.module_size
    free = 64 * 2**20
    for mode in ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"):
        memory.unload_all_models()
        memory.is_device_cpu, memory.get_free_memory, memory.module_size = is_cpu, free_memory, module_size
        if mode != "NORMAL_VRAM":
            # 0.3.64 grants each model 128 MB whatever is free, which is more than these take.
            memory.module_size = lambda module: module_size(module) * 2**20
        with torch.inference_mode():
            model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(given["checkpoint"], output_clip=False)
            if mode != "NORMAL_VRAM":
                memory.vram_state = memory.VRAMState[mode]
                memory.is_device_cpu = lambda _: False
                memory.get_free_memory = lambda _=None, torch_free_too=False: (free, free) if torch_free_too else free
            clip = load_clip(given["artifact"])
            created = paint(clip, model, vae, given["prompts"])
        created["streamed.clip"] = torch.tensor(streamed(clip.cond_stage_model))
        created["streamed.model"] = torch.tensor(streamed(model.model))
        save_file(created, Path(given["out"]) / f"{mode}.safetensors")


def paint(clip: Any, model: Any, vae: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Every prompt's conditioning and the last one's picture, by the stock nodes."""
    nodes: Any = importlib.import_module("nodes")  # ComfyUI's
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


def import_pack() -> dict[str, list[str]]:
    """Import the pack as ComfyUI's start does. Returns the node ids and the modules that this loaded."""
    for name in ("comfy.samplers", "comfy_api.latest"):  # which ComfyUI has loaded before it imports packs
        importlib.import_module(name)

    before = set(sys.modules)
    nodes = asyncio.run(asyncio.run(pack_module("").comfy_entrypoint()).get_node_list())
    ids = [node.GET_SCHEMA().node_id for node in nodes]
    return {"nodes": ids, "modules": sorted(set(sys.modules) - before)}


def parse_weights(prompts: str) -> list[list[list[str]]]:
    """ComfyUI's own reading of the brackets in a JSON list of prompts: [text, weight] of each span, the weight as
    Python writes it, so that nan equals nan."""
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    texts = json.loads(Path(prompts).read_text(encoding="utf-8"))
    spans = [token_weights(escape_important(text), 1.0) for text in texts]
    return [[[unescape_important(part), repr(weight)] for part, weight in parts] for parts in spans]


if __name__ == "__main__":
    main()
