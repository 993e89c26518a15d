"""The ComfyUI in whose custom_nodes this clone lies, where it does."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

AROUND = "around"  # of --install: the ComfyUI around the clone
CLIP = "openai/clip-vit-large-patch14"


def comfyui_around(clone: Path | None = None) -> Path | None:
    """The ComfyUI around this clone, or None: COMFYUI/custom_nodes/CLONE, where COMFYUI has a folder models."""
    clone = clone or Path(__file__).absolute().parents[2]
    nodes = clone.parent
    return nodes.parent if nodes.name == "custom_nodes" and (nodes.parent / "models").is_dir() else None


def install_folder(setting: str | None) -> Path | None:
    """The ComfyUI that --install names, or None for no copy."""
    return comfyui_around() if setting == AROUND else Path(setting) if setting else None


def encoders_folder(comfyui: Path) -> Path:
    """Where ComfyUI looks first for text encoders: models/text_encoders, or a default folder of extra_model_paths.yaml.

    Command line options such as --models-directory are not seen.
    """
    folder = comfyui / "models" / "text_encoders"
    try:
        sections = yaml.safe_load((comfyui / "extra_model_paths.yaml").read_text(encoding="utf-8"))
        for section in filter(None, sections.values()):
            base = os.path.expandvars(os.path.expanduser(section.get("base_path") or ""))
            for kind, paths in section.items() if section.get("is_default") else ():
                if kind in ("text_encoders", "clip"):
                    folder = comfyui / base / list(filter(None, paths.split("\n")))[-1]
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):
        pass  # there is none, or not one that ComfyUI could read
    return folder


def clip_tokenizer() -> str:
    """CLIP's tokenizer: that of the ComfyUI around this clone, which ships one, else the hub's."""
    comfyui = comfyui_around()
    folder = comfyui / "comfy" / "sd1_tokenizer" if comfyui else None
    return str(folder) if folder and (folder / "vocab.json").is_file() else CLIP
