"""Prompt to conditioning by our CLIP, beside ComfyUI's own: python -m benchmarks.encode [--sdxl] [--quick] [--json F]

Ours is what the loader node gives, 12 x 768; the other is CLIP-L, with --sdxl CLIP-L and bigG. Both have random
weights, and are called as CLIPTextEncode calls them, in one process and in turns. The first encoding follows loading
and pays for what is done once. ComfyUI keeps a node's output while its inputs stay the same; "again" here is the same
prompt encoded again all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.host import arguments, clip_file, encoder_file, own_clip, pack, prompt
from benchmarks.rounds import race, tell

REPEAT = 4
CASES = {
    "the same prompt again": (60, 0, 0),
    "another prompt, no weights": (60, 0, 1),
    "1 weighted span": (60, 1, 1),
    "3 weighted spans": (60, 3, 1),
    "10 weighted spans": (60, 10, 1),
    "3 windows": (200, 0, 1),
}
"""Tokens of a prompt, how many of them have a weight, and by how much one prompt is ahead of the one before."""


def encode(clip: Any, text: str) -> torch.Tensor:
    """What CLIPTextEncode does."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def encoding(clip: Any, chinese: bool, length: int, spans: int, step: int) -> Callable[[], torch.Tensor]:
    """A call that encodes the next prompt of a case."""
    firsts = count(0, step)
    return lambda: encode(clip, prompt(chinese, length, spans, next(firsts)))


def main() -> None:
    """Build both, time every case, print the table."""
    given = arguments(__doc__, "--sdxl")
    load_clip, same = pack("nodes.host.clip").load_clip, (60, 0, 0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ours_file = encoder_file(Path(folder) / "encoder.safetensors", given.quick, sdxl=given.sdxl)
        own_files = [clip_file(Path(folder) / "clip_l.safetensors")]
        if given.sdxl:
            own_files.append(clip_file(Path(folder) / "clip_g.safetensors", "comfy.sdxl_clip", "SDXLClipG"))
        first = race(
            lambda: encoding(own_clip(*own_files), False, *same),
            lambda: encoding(load_clip(str(ours_file)), True, *same),
            given.quick,
            REPEAT,
            ready=lambda load: load(),
        )
        own, ours = own_clip(*own_files), load_clip(str(ours_file))
        races = {"first after loading": first} | {
            name: race(encoding(own, False, *case), encoding(ours, True, *case), given.quick, REPEAT)
            for name, case in CASES.items()
        }
    tell(races, "own CLIP", f"ComfyUI {given.options}", given.json)


if __name__ == "__main__":
    main()
