"""What calibration says of other models' CLIPs, in a process that can import ComfyUI: prints one sentence each."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own


def main() -> None:
    """Whole models without weights, on torch's meta device."""
    sys.argv = [*sys.argv[:1], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.text_encoders.flux import FluxClipModel
    from comfy.text_encoders.sd2_clip import SD2ClipModel

    for kind in (SDXLClipModel, SD2ClipModel, FluxClipModel):
        try:
            pack_module("nodes.host").Teacher(
                SimpleNamespace(cond_stage_model=kind(device="meta", dtype=torch.float16))
            )
        except ValueError as error:
            print(error)


main()
