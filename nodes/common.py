"""What several nodes need: schemas, the list of encoders in models/text_encoders, and text boxes read line by line."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..zhclip.artifact import is_artifact
from ..zhclip.io import ArtifactError, open_safetensors
from .messages import message

FOLDER = "text_encoders"
FORBIDDEN = frozenset('<>:"|?*\\')
SUFFIXES = (".safetensors", ".sft")


def schema(**values: Any) -> io.Schema:
    """The io.Schema of the keywords that this version of ComfyUI knows: an older one raises TypeError for a later
    keyword, such as search_aliases.

    Outputs need a display_name: without one, a version before 2026 shows the type, and a later one the id.
    """
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def prompt_server() -> Any:
    """ComfyUI's running server, or None in a process without one (comfy-cli's, a test's).

    Its module is looked up and not imported: that takes a second.
    """
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def core_category(kind: str) -> str:
    """The menu of core's own nodes of a kind, such as loaders, which is below `model` since 2026."""
    loader = getattr(sys.modules.get("nodes"), "CheckpointLoaderSimple", None)  # of ComfyUI's own nodes.py
    return f"model/{kind}" if loader and loader.CATEGORY.startswith("model/") else kind


def file_in_folder(name: str, field: str, example: str) -> Path:
    """Path of a new encoder in models/text_encoders. Raises ValueError for a name that is not a file in the folder."""
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0]).resolve()
    path = (folder / (name if name.lower().endswith(".safetensors") else f"{name}.safetensors")).resolve()
    if FORBIDDEN & set(name) or not name.isprintable() or not path.is_relative_to(folder) or path.stem in ("", "."):
        raise ValueError(message("bad_name", field=field, name=name, folder=folder, example=example))
    return path


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text box that are not blank, stripped, each with its number, counted from 1."""
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def encoder_names() -> list[str]:
    """Names of the files in text_encoders whose header has ZhCLIP's metadata, as a combo shows them."""
    names = (name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIXES))
    return [name for name in names if _is_encoder(name)]


def _is_encoder(name: str) -> bool:
    path = folder_paths.get_full_path(FOLDER, name)
    try:
        return path is not None and _has_metadata(path, file_stamp(path))
    except OSError:  # deleted since the folder was listed, or not readable
        return False


@functools.lru_cache(maxsize=1024)
def _has_metadata(path: str, _stamp: str) -> bool:
    # Cached: headers of large checkpoints are megabytes, and every /object_info asks for all files.
    return is_artifact(path)


def file_stamp(path: str) -> str:
    """The file's modification time and size."""
    status = os.stat(path)
    return f"{status.st_mtime_ns}-{status.st_size}"


def has_tensors(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a safetensors file has a tensor whose name begins with one of these; False for a damaged file."""
    try:
        with open_safetensors(path) as file:
            return any(name.startswith(prefixes) for name in list(file.keys()))
    except ArtifactError:
        return False
