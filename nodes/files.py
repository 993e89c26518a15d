"""The encoders in models/text_encoders, known by their header and not by their name."""

from __future__ import annotations

import functools
import os

import folder_paths

from ..zhclip.artifact import is_marked

FOLDER = "text_encoders"
SUFFIXES = (".safetensors", ".sft")
CHOOSE = (
    "Copy an aligned encoder (a .safetensors file that `python -m trainer run` wrote) there, press R, and choose it."
)


def encoder_names() -> list[str]:
    """Names, as a combo shows them, of the files in text_encoders whose header says that they are ours."""
    names = (name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIXES))
    return [name for name in names if _is_encoder(name)]


def _is_encoder(name: str) -> bool:
    path = folder_paths.get_full_path(FOLDER, name)
    try:
        return path is not None and _is_marked_at(path, stamp(path))
    except OSError:  # deleted since the folder was listed, or not ours to read
        return False


@functools.lru_cache(maxsize=1024)
def _is_marked_at(path: str, _stamp: str) -> bool:
    # Headers of large checkpoints are megabytes, and every /object_info asks for all of them.
    return is_marked(path)


def stamp(path: str) -> str:
    """The file's modification time and size."""
    status = os.stat(path)
    return f"{status.st_mtime_ns}-{status.st_size}"
