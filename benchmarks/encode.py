"""python benchmarks/encode.py [--quick] [--json F] [--comfyui FOLDER] [--options="--cpu"]

Prompt to conditioning by the CLIP that the loader node gives (12 x 768, random weights), beside a CLIP-L of random
weights by ComfyUI's own loader, in one process and in turns. Both are called as CLIPTextEncode calls them.

The first encoding is the one that follows loading and pays for what is done once. ComfyUI itself keeps a node's output
while its inputs stay the same, for both alike, so a prompt that is queued again costs neither anything; "again" here
is the same prompt encoded again all the same.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import rounds
import torch

GOAL = "no weights"


def encode(clip: Any, text: str) -> torch.Tensor:
    """What CLIPTextEncode does."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def weighted(text: str, spans: int, separator: str) -> str:
    """A prompt of 60 pieces of which `spans`, each one piece long, have a weight."""
    pieces = text.split(separator) if separator else list(text)
    step = len(pieces) // max(spans, 1)
    for at in range(spans):
        pieces[at * step] = f"({pieces[at * step]}:1.{at % 9 + 1})"
    return separator.join(pieces)


def prompts(spans: int, length: int = 60) -> tuple[Iterator[str], Iterator[str]]:
    """Endless prompts for CLIP and for us, each new, of as many tokens and weighted spans."""
    for_clip = (weighted(rounds.words(length, at), spans, " ") for at in count())
    for_us = (weighted(rounds.ideographs(length, at), spans, "") for at in count())
    return for_clip, for_us


def first(load: Callable[[], Any], texts: Iterator[str]) -> Callable[[], torch.Tensor]:
    """Load anew; returns the call that encodes once."""
    clip, text = load(), next(texts)
    return lambda: encode(clip, text)


def main() -> None:
    """Build both, time every case, print the table."""
    given = rounds.arguments(__doc__)
    rounds.find_comfyui(given.comfyui)
    number, repeat = (1, 1) if given.quick else (rounds.ROUNDS, 4)
    race = functools.partial(rounds.race, repeat=repeat, number=number, warm=not given.quick)
    load_clip = rounds.pack("nodes.clip").load_clip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ours_file = rounds.encoder(Path(folder) / "encoder.safetensors", given.quick)
        plain_file = rounds.clip_file(Path(folder) / "clip_l.safetensors")
        for_clip, for_us = prompts(0)
        races = {
            "first after loading": race(
                lambda: first(lambda: rounds.own_clip(plain_file), for_clip),
                lambda: first(lambda: load_clip(str(ours_file)), for_us),
                ready=lambda way: way(),
            )
        }
        own, clip = rounds.own_clip(plain_file), load_clip(str(ours_file))

        def compare(name: str, spans: int, length: int = 60) -> None:
            for_clip, for_us = prompts(spans, length)
            races[name] = race(lambda: encode(own, next(for_clip)), lambda: encode(clip, next(for_us)))

        races["the same prompt again"] = race(
            lambda: encode(own, rounds.words(60)), lambda: encode(clip, rounds.ideographs(60))
        )
        compare(GOAL, 0)
        for spans in (1, 3, 10):
            compare(f"{spans} weighted span{'s' * (spans > 1)}", spans)
        compare("3 windows", 0, length=200)
        assert encode(own, rounds.words(200)).shape == encode(clip, rounds.ideographs(200)).shape == (1, 231, 768)
    threads = torch.get_num_threads()
    print(f"ComfyUI {given.options}, {threads} threads, torch {torch.__version__}, {number} rounds of {repeat}")
    print(rounds.table(races, "own CLIP-L"))
    figures = {name: measured.summary() for name, measured in races.items()}
    rounds.write(given.json, {**figures[GOAL], "cases": figures, "threads": threads, "options": given.options})


if __name__ == "__main__":
    main()
