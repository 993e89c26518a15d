"""Free disk space, and one sentence when a disk is full."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the system allows no larger file (`ulimit -f`)",
    112: "the disk is full",  # Windows' ERROR_DISK_FULL, in safetensors' messages
}


def full_disk(error: BaseException | None, folder: Path) -> str | None:
    """One sentence if a full disk caused the error, else None. `folder`: named if the error names no file."""
    while error is not None:
        number, named = None, None
        if isinstance(error, OSError):
            number, named = error.errno, error.filename
        elif isinstance(error, SafetensorError) and (match := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(match[1])
        if number in FULL:
            path = Path(named or folder)
            free = f"{free_bytes(path) / 1e6:.1f} MB are free there"
            return f"{path}: {FULL[number]} ({free}); make room, then give the same command again to continue"
        error = error.__cause__ or error.__context__
    return None


def free_bytes(path: Path) -> int:
    """Free space in bytes on the disk of a path that may not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
