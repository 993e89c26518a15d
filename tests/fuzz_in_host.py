"""Encodes a JSON list of prompts in a process that can import ComfyUI, by a ZhCLIP encoder alone and with a stock CLIP
beside it: writes zh.<index> and both.<index>. An exception of one prompt ends it, with that prompt's number."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file


def main(artifact: str, prompts: list[str], out: Path) -> None:
    """Both ways for every prompt."""
    sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    zhclip = pack_module("nodes.host").load_clip(artifact)
    node = pack_module("nodes.encode").ZhCLIPTextEncode
    second = stock_clip()
    found = {}
    with torch.inference_mode():
        for at, text in enumerate(prompts):
            try:
                found[f"zh.{at}"] = zhclip.encode(text)[0].clone()
                found[f"both.{at}"] = node.execute(zhclip, text, second).result[0][0][0][0].clone()
            except Exception as error:
                raise RuntimeError(f"prompt {at}, {text[:80]!a}") from error
    save_file(found, out)


def stock_clip() -> Any:
    """SD1.5's CLIP as core builds it, with one layer in place of twelve and random weights."""
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    torch.manual_seed(0)
    path = Path(sys.modules[SD1ClipModel.__module__].__file__ or "").with_name("sd1_clip_config.json")
    config = json.loads(path.read_text(encoding="utf-8")) | {"num_hidden_layers": 1}
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options={"clip_l_model_config": config})
    for value in clip.cond_stage_model.state_dict().values():
        value.normal_(std=0.02)
    return clip


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3]))
