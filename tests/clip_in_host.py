"""What other node packs do to a CLIP, in a process that can import ComfyUI: prints what they find, as JSON."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from typing import Any

import torch
from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own


def main(path: str) -> None:
    """Facts about the CLIP of an artifact."""
    sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.model_management import current_loaded_models

    load_clip = pack_module("nodes.host.clip").load_clip
    clip = load_clip(path)
    placed = [loaded.model for loaded in current_loaded_models]
    with torch.inference_mode():
        found = facts(clip) | {"placed": placed == [clip.patcher]}
        found["overwritten"] = bool(torch.equal(overwritten(path, load_clip).encode("red"), clip.encode("red")))
    print(json.dumps(found))


def overwritten(path: str, load_clip: Any) -> Any:
    """The CLIP of a file that was emptied in place afterwards, as a copy over it begins."""
    lost = shutil.copy(path, f"{path}.lost.safetensors")
    clip = load_clip(lost)
    os.truncate(lost, 0)
    return clip


def facts(clip: Any) -> dict[str, Any]:
    """Plain values only."""
    text = "\u4e00\u53ea(\u732b:1.5), red dog"
    tokens = clip.tokenize(text)
    words = clip.tokenize(text, return_word_ids=True)
    unweighted = {"l": [[(token, 1.0) for token, _ in window] for window in tokens["l"]]}
    weighted = {"l": [[(token, 1.7) for token, _ in window] for window in tokens["l"]]}
    bracketed = clip.tokenize("(\u4e00\u53ea\u732b, red dog:1.7)")
    short = {"l": [window[:40] for window in tokens["l"]]}
    model, tokenizer = clip.cond_stage_model, clip.tokenizer.clip_l
    factory, arguments = clip.patcher.cached_patcher_init
    rebuilt = factory(*arguments, disable_dynamic=True)
    model.set_clip_options({"execution_device": torch.device("cpu"), "layer": -2})
    layer = model.clip_l.layer
    model.reset_clip_options()
    pooled = clip.encode_from_tokens(tokens, return_pooled=True)[1]
    cond = clip.encode_from_tokens(tokens)
    plain = clip.encode_from_tokens(unweighted)
    return {
        "keys": list(tokens),
        "windows": [len(window) for window in tokens["l"]],
        "weights": [weight for _, weight in tokens["l"][0][:8]],
        "ids": [token for token, _ in tokens["l"][0][:9]],
        "words": [word for _, _, word in words["l"][0][:12]],
        "untokenized": [name for _, name in clip.tokenizer.untokenize(tokens["l"][0])[:9]],
        "framed": tokenizer.tokenizer("cat")["input_ids"],
        "decoded": [
            tokenizer.tokenizer.decode(tokenizer.tokenizer("red dog")["input_ids"], skip_special_tokens=True),
            tokenizer.tokenizer.decode(tokenizer.tokenizer("cat")["input_ids"][1]),
        ],
        "long": error_of(lambda: clip.tokenize("a" * 20_001)),
        "many": error_of(lambda: clip.encode("(\u732b:1.2)\u4e00" * 2_000)),
        "special": [tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token, tokenizer.max_length],
        "literal": [token for token, _ in clip.tokenize(text, disable_weights=True)["l"][0]].index(3),
        "embeddings": tokenizer.embedding_directory,
        "weight 1 is plain": bool(torch.equal(plain, clip.encode("\u4e00\u53ea\u732b, red dog"))),
        "all weighted": bool(torch.equal(clip.encode_from_tokens(weighted), clip.encode_from_tokens(bracketed))),
        "pooled is the end's": bool(torch.equal(pooled[0], cond[0, [t for t, _ in tokens["l"][0]].index(3)])),
        "nothing is empty": bool(torch.equal(model.clip_l.encode_token_weights([])[0], clip.encode(""))),
        "short": error_of(lambda: clip.encode_from_tokens(short)),
        "rebuilt": sorted(rebuilt.model.state_dict()) == sorted(model.state_dict()),
        "layer": layer,
        "copied": bool(torch.equal(*(m.clip_l.states([[2, 9, 3]], "cpu")[0] for m in (model, copy.deepcopy(model))))),
        "foreign weights": error_of(lambda: model.clip_l.load_sd({"bert.foreign": torch.zeros(1)})),
    }


def error_of(call: Any) -> str:
    """The message of the ValueError that a call raises."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    main(sys.argv[1])
