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
    from comfy.sd1_clip import SD1ClipModel
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.text_encoders.flux import FluxClipModel
    from comfy.text_encoders.sd2_clip import SD2ClipModel

    teacher, kinds = pack_module("nodes.host.teacher").Teacher, pack_module("zhclip.models")
    asked = [(kind, kinds.SD15) for kind in (SDXLClipModel, SD2ClipModel, FluxClipModel)]
    for model, kind in [*asked, (SD1ClipModel, kinds.SDXL), (FluxClipModel, kinds.SDXL)]:
        try:
            teacher(SimpleNamespace(cond_stage_model=model(device="meta", dtype=torch.float16)), kind)
        except ValueError as error:
            print(error)


main()
