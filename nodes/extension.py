"""The list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import route
from .calibrate import ZhCLIPCalibrate
from .compare import ZhCLIPCompareGrid, ZhCLIPGrid
from .encode import ZhCLIPTextEncode
from .inspector import ZhCLIPInspector
from .loader import ZhCLIPLoader
from .train import ZhCLIPTrain


class ZhCLIPExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Node classes in the order of the menu."""
        return [
            ZhCLIPLoader,
            ZhCLIPTextEncode,
            ZhCLIPCompareGrid,
            ZhCLIPGrid,
            ZhCLIPInspector,
            ZhCLIPCalibrate,
            ZhCLIPTrain,
        ]


async def comfy_entrypoint() -> ZhCLIPExtension:
    """The pack's entry point, which ComfyUI calls once at its start."""
    route.register()
    return ZhCLIPExtension()
