"""What several nodes need: schemas, the list of encoders in models/text_encoders, and text boxes read line by line."""

from __future__ import annotations

import functools
import os
from dataclasses import fields
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..zhclip.artifact import is_artifact

FOLDER = "text_encoders"
SUFFIXES = (".safetensors", ".sft")
HOW_TO_ADD = (
    "Copy an aligned encoder (a .safetensors file that `python -m trainer run` wrote) there, press R, and choose it."
)


def schema(**values: Any) -> io.Schema:
    """The io.Schema of the keywords that this version of ComfyUI knows: an older one raises TypeError for a later
    keyword, such as search_aliases.

    Outputs need a display_name: without one, a version before 2026 shows the type, and a later one the id.
    """
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


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
