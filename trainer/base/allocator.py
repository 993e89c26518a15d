"""What the process does with memory that a tensor has freed."""

from __future__ import annotations

import ctypes
import sys

# glibc's names and numbers, from its malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next tensor of the process.

    By default it hands a large tensor's memory back to the system, which has to clear every page before the next batch
    has a tensor of the same size: a sixth of the cache stage at full size. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)  # none of the large ones in a mapping of its own
        mallopt(M_TRIM_THRESHOLD, -1)  # nor the end of the heap cut off
