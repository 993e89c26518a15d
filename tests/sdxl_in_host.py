"""What SDXL's nodes and others do to a CLIP of two parts, in a process that can import ComfyUI: prints JSON facts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file

RED, BLUE, LONG = "red cat", "(blue:1.3) dog", "red cat, " * 60


def main(path: str) -> None:
    """Facts about the CLIP of an SDXL artifact; SDXL's own CLIP is saved beside it, as ComfyUI saves checkpoints."""
    sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import probe  # type: ignore[import-not-found]
    from comfy.supported_models import SDXL

    host = pack_module("nodes.host.clip")
    with torch.inference_mode():
        found = facts(host.load_clip(path), host)
        clip = probe.sdxl_clip()
        save_file(SDXL.process_clip_state_dict_for_saving(None, clip.get_sd()), Path(path).with_name("own.safetensors"))
        found["teacher"] = teacher(clip, pack_module("nodes.host.teacher").Teacher)
    print(json.dumps(found))


def teacher(clip: Any, read: Any) -> dict[str, Any]:
    """How far calibration's reading of SDXL's own CLIP lies from what stock nodes get of it, and its digest."""
    made = read(clip, pack_module("zhclip.models").SDXL)
    assert (made.widths, made.pooled_width) == ((768, 1280), 1280)
    found: dict[str, Any] = {"cond": 0.0, "pooled": 0.0, "sha256": made.sha256()}
    clip.load_model()
    for text in ("", "a red cat on a stone bridge"):
        tokens = clip.tokenize(text)
        cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
        (ids,) = made.windows(text)
        for size in (len(ids), made.length(ids)):
            states = made.states([ids[:size]])
            found["cond"] = max(found["cond"], float((states["skip"] - cond[:, :size]).abs().max()))
            found["pooled"] = max(found["pooled"], float((states["pooled"][:, 0] - pooled).abs().max()))
    found["largest"] = float(cond.abs().max())
    return found


def facts(clip: Any, host: Any) -> dict[str, Any]:
    """Plain values only."""
    encoder = clip.cond_stage_model.clip_l
    width = encoder.meta.widths[0]
    passes: list[int] = []
    encode = encoder.encode

    def counted(rows: list[Any]) -> Any:
        passes.append(len(rows))
        return encode(rows)

    encoder.encode = counted

    def both(left: str, right: str) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = {"l": clip.tokenize(left)["l"], "g": clip.tokenize(right)["g"]}
        return clip.encode_from_tokens(tokens, return_pooled=True)

    (red, red_pooled), (blue, blue_pooled), (long, _) = (both(text, text) for text in (RED, BLUE, LONG))
    same = list(passes)
    passes.clear()
    mixed, pooled = both(RED, BLUE)
    tokens = clip.tokenize(RED)
    found: dict[str, Any] = {
        "keys": list(tokens),
        "own lists": tokens["l"] is not tokens["g"] and tokens["l"] == tokens["g"],
        "passes": [same, list(passes)],
        "shapes": [list(red.shape), list(red_pooled.shape), list(long.shape)],
        "columns": bool(
            torch.equal(mixed[..., :width], red[..., :width]) and torch.equal(mixed[..., width:], blue[..., width:])
        ),
        "pooled": bool(torch.equal(pooled, blue_pooled)) and not torch.equal(pooled, red_pooled),
        "cut": [list(both(LONG, RED)[0].shape), bool(torch.equal(both(LONG, RED)[0][..., width:], red[..., width:]))],
        "layers": {},
    }
    for layer in (None, -1, -2, -3):
        clip.clip_layer(layer)
        z, pooled = both(RED, RED)
        found["layers"][str(layer)] = [
            host.layer_in_use(clip),
            bool(torch.equal(z, red)),
            bool(torch.equal(pooled, red_pooled)),
        ]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
