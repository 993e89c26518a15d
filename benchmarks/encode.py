"""Prompt to conditioning by our CLIP, beside ComfyUI's own CLIP-L: python -m benchmarks.encode [--quick] [--json F]

Ours is what the loader node gives, 12 x 768; both have random weights, and are called as CLIPTextEncode calls them, in
one process and in turns. The first encoding follows loading and pays for what is done once. ComfyUI keeps a node's
output while its inputs stay the same; "again" here is the same prompt encoded again all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.host import arguments, clip_file, encoder_file, own_clip, pack, prompt
from benchmarks.rounds import Race, race, tell

REPEAT = 4
CASES = {
    "another prompt, no weights": (60, 0),
    "1 weighted span": (60, 1),
    "3 weighted spans": (60, 3),
    "10 weighted spans": (60, 10),
    "3 windows": (200, 0),
}
"""Tokens of a prompt, and how many of them have a weight."""


def encode(clip: Any, text: str) -> torch.Tensor:
    """What CLIPTextEncode does."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def first(load: Callable[[], Any], chinese: bool) -> Callable[[], torch.Tensor]:
    """Load anew; returns the call that encodes once."""
    clip = load()
    return lambda: encode(clip, prompt(chinese))


def compare(own: Any, ours: Any, length: int, spans: int, quick: bool) -> Race:
    """Endless prompts for both, each new, of as many tokens and weighted spans."""
    for_own, for_ours = count(), count()
    return race(
        lambda: encode(own, prompt(False, length, spans, next(for_own))),
        lambda: encode(ours, prompt(True, length, spans, next(for_ours))),
        quick,
        REPEAT,
    )


def main() -> None:
    """Build both, time every case, print the table."""
    given = arguments(__doc__)
    load_clip = pack("nodes.clip").load_clip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ours_file = encoder_file(Path(folder) / "encoder.safetensors", given.quick)
        own_file = clip_file(Path(folder) / "clip_l.safetensors")
        races = {
            "first after loading": race(
                lambda: first(lambda: own_clip(own_file), False),
                lambda: first(lambda: load_clip(str(ours_file)), True),
                given.quick,
                REPEAT,
                ready=lambda way: way(),
            )
        }
        own, ours = own_clip(own_file), load_clip(str(ours_file))
        again = (lambda: encode(own, prompt(False))), (lambda: encode(ours, prompt(True)))
        races["the same prompt again"] = race(*again, given.quick, REPEAT)
        races |= {name: compare(own, ours, *case, given.quick) for name, case in CASES.items()}
        assert encode(own, prompt(False, 200)).shape == encode(ours, prompt(True, 200)).shape == (1, 231, 768)
    tell(races, "own CLIP-L", f"ComfyUI {given.options}", given.json)


if __name__ == "__main__":
    main()
