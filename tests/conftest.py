"""Fixtures shared by the tests: one ComfyUI and one checkpoint for the whole session."""

from tests.host import checkpoint, host  # noqa: F401
