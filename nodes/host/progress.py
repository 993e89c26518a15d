"""A loop that ComfyUI shows and can stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import comfy.model_management
import comfy.utils

Item = TypeVar("Item")


def steps(items: Sequence[Item]) -> Iterator[Item]:
    """The items one by one, with a progress bar. Raises the host's own exception when the user interrupts."""
    bar = comfy.utils.ProgressBar(len(items))
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item
        bar.update(1)
