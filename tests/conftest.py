"""Fixtures shared by the tests: one ComfyUI, one checkpoint and two aligned encoders for the whole session."""

from tests.aligned import bert_pair, clip_pair  # noqa: F401
from tests.host import checkpoint, host, sdxl, sdxl_checkpoint  # noqa: F401
