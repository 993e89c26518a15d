"""One CLIP in two threads, one file by two loaders, ten loads and frees, in a process that can import ComfyUI:
`python stress_in_host.py ENCODER`. Prints JSON: the largest differences, and MB of memory after each free."""

from __future__ import annotations

import gc
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from encode_in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own

PROMPTS = ["", "\u4e00\u53ea\u732b", "(red:1.4) cat BREAK dog", "a cat, " * 60, "((\u732b)) (dog:0.2)"]


def main(path: str) -> None:
    """All three."""
    sys.argv = [*sys.argv[:1], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    load = pack_module("nodes.host.clip").load_clip
    with torch.inference_mode():
        alone = encoded(load(path))
        shared = load(path)
        with ThreadPoolExecutor(2) as threads:
            both = list(threads.map(encoded, [shared, shared]))
            twice = list(threads.map(lambda at: encoded(load(at)), [path, path]))
        memory = [loaded_and_freed(load, path) for _ in range(10)]
    found = {name: [off(alone, other) for other in others] for name, others in (("clip", both), ("file", twice))}
    print(json.dumps(found | {"memory": memory}))


@torch.inference_mode()
def encoded(clip: Any) -> list[torch.Tensor]:
    """Every prompt's conditioning."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0].clone() for text in PROMPTS]


def off(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other))


def loaded_and_freed(load: Any, path: str) -> float:
    """MB of the process after a load, a prompt, and what ComfyUI does for POST /free."""
    import comfy.model_management

    clip = load(path)
    clip.encode_from_tokens_scheduled(clip.tokenize("cat"))
    del clip
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main(sys.argv[1])
