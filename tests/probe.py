"""A ComfyUI node for the tests alone: writes what passes a CONDITIONING socket to a file that a test can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
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
        """One tensor per entry and kind, and in the header the names of what else the entries carry."""
        tensors = {}
        for i, (cond, extra) in enumerate(conditioning):
            tensors[f"cond.{i}"] = cond.float().contiguous().clone()
            tensors[f"pooled.{i}"] = extra["pooled_output"].float().contiguous().clone()
        extras = json.dumps([sorted(extra) for _, extra in conditioning])
        save_file(tensors, Path(folder_paths.get_output_directory()) / f"{name}.safetensors", {"extras": extras})
        return {"ui": {"saved": [name]}}


NODE_CLASS_MAPPINGS = {"ConditioningProbe": ConditioningProbe}
