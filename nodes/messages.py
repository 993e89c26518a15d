"""Sentences for the user in the interface's language, from locales/<language>/main.json."""

from __future__ import annotations

import functools
import json
import locale
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths

from ..zhclip.io import ArtifactError

LOCALES = Path(__file__).resolve().parent.parent / "locales"


def message(key: str, **values: Any) -> str:
    """The sentence of this key with its {names} filled in."""
    return _sentences(language())[key].format(**values)


@contextmanager
def explained(key: str) -> Iterator[None]:
    """Inside, or in a function that this decorates, an ArtifactError reads as the sentence of this key about it."""
    try:
        yield
    except ArtifactError as error:
        error.args = (message(key, error=error),)
        raise


def language() -> str:
    """The language that the user chose in ComfyUI's settings, else the system's: "en", "zh" or "zh-TW"."""
    try:
        settings = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
        chosen = json.loads(settings.read_text(encoding="utf-8")).get("Comfy.Locale")
    except (OSError, ValueError):  # no settings yet
        chosen = None
    if not chosen:  # the front end then follows the browser, whose language is the system's in most cases
        system = (locale.getlocale()[0] or "").lower()  # zh_cn, or on Windows chinese (simplified)_china
        traditional = any(region in system for region in ("tw", "hk", "traditional"))
        chosen = ("zh-TW" if traditional else "zh") if system.startswith(("zh", "chinese")) else "en"
    return chosen if (LOCALES / chosen).is_dir() else "en"


@functools.cache
def _sentences(language: str) -> dict[str, str]:
    return json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["zhclip"]
