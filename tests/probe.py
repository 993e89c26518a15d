"""ComfyUI nodes for the tests alone: a conditioning written to a file, and SDXL's CLIP with random weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save_file


class ConditioningProbe:
    """Saves every entry's tensor and pooled vector as <name>.safetensors in the output folder."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {"default": "conditioning"})}}

    def save(self, conditioning: list[Any], name: str) -> dict[str, Any]:
        """One tensor per entry and kind, and in the header the names of what else the entries carry,
        the numbers among it, and the count of its hooks."""
        tensors = {}
        for i, (cond, extra) in enumerate(conditioning):
            tensors[f"cond.{i}"] = cond.float().contiguous().clone()
            tensors[f"pooled.{i}"] = extra["pooled_output"].float().contiguous().clone()
        facts = {
            "extras": json.dumps([sorted(extra) for _, extra in conditioning]),
            "numbers": json.dumps(
                [{k: v for k, v in extra.items() if type(v) in (int, float)} for _, extra in conditioning]
            ),
            "hooks": json.dumps([len(extra.get("hooks") or ()) for _, extra in conditioning]),
        }
        save_file(tensors, Path(folder_paths.get_output_directory()) / f"{name}.safetensors", facts)
        return {"ui": {"saved": [name]}}


@functools.cache
def sdxl_clip() -> Any:
    """SDXL's CLIP, of core's own classes and at its own widths, three layers in each half and random weights. One
    dimension of the hidden states is massive, as some of the real ones are."""
    import comfy.sd
    import comfy.sdxl_clip
    from comfy.supported_models_base import ClipTarget

    few = {"num_hidden_layers": 3, "intermediate_size": 256}
    clip = comfy.sd.CLIP(
        ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"clip_l_model_config": few, "clip_g_model_config": few},
    )
    generator = torch.Generator().manual_seed(0)
    for name, value in clip.cond_stage_model.state_dict().items():
        if value.ndim < 2:
            value.fill_(float(name.endswith("weight")))
        else:
            scale = 0.02 if "embedding" in name else value.shape[-1] ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
        if name.endswith("layers.0.mlp.fc2.bias"):
            value[7] = 60.0
    return clip


class SDXLClip:
    """Gives `sdxl_clip`."""

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        """The same one every time."""
        return (sdxl_clip(),)


NODE_CLASS_MAPPINGS = {
    "ConditioningProbe": ConditioningProbe,
    "SDXLClip": SDXLClip,
}
