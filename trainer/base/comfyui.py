"""The ComfyUI in whose custom_nodes this clone lies, where it does."""

from __future__ import annotations

from pathlib import Path

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


def clip_tokenizer() -> str:
    """CLIP's tokenizer: that of the ComfyUI around this clone, which ships one, else the hub's."""
    comfyui = comfyui_around()
    folder = comfyui / "comfy" / "sd1_tokenizer" if comfyui else None
    return str(folder) if folder and (folder / "vocab.json").is_file() else CLIP
