"""Loading our file beside reading and copying it, and beside CLIP-L's: python -m benchmarks.load [--quick] [--json F]

Also the start of ComfyUI, memory and the files' sizes. The least that any loader does is safetensors' `load_file` and
one copy of every tensor (alone, `load_file` maps the file and reads none of it). Each is the first load of a process of
its own, which a user waits for: a process that has freed as much memory before gets it back ready to be written, and
reads and copies in half of the time. All files are in the system's cache, everything is imported.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.host import arguments, clip_file, encoder_file, own_clip, pack
from benchmarks.rounds import ROOT, ROUNDS, Race, tell

PROCESSES = 3  # a round, each way: one alone is off by a sixth


def copied(path: str) -> dict[str, torch.Tensor]:
    """Every tensor of a file, read."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def loader(kind: str) -> Callable[[str], Any]:
    """From a path to what that kind of loading makes; all is imported, and torch's threads run."""
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)
    if kind == "copied":
        return copied
    importlib.import_module("comfy.sd")
    return pack("nodes.host.clip").load_clip if kind == "ours" else own_clip


def start() -> float:
    """Seconds that ComfyUI's start spends on the pack: its import, its list of nodes and their schemas."""
    for name in ("comfy.samplers", "comfy_api.latest"):  # what ComfyUI itself has imported before any pack
        importlib.import_module(name)
    began = time.perf_counter()
    for node in asyncio.run(asyncio.run(pack("nodes.extension").comfy_entrypoint()).get_node_list()):
        node.GET_SCHEMA()
    return time.perf_counter() - began


def first(kind: str, path: str) -> float:
    """Seconds of the first load."""
    load = loader(kind)
    began = time.perf_counter()
    loaded = load(path)
    seconds = time.perf_counter() - began
    del loaded
    return seconds


def memory(kind: str, path: str) -> float:
    """Resident bytes that a CLIP adds, loaded and used once."""
    process = importlib.import_module("psutil").Process()
    load = loader(kind)
    before = process.memory_info().rss
    clip = load(path)
    with torch.inference_mode():
        clip.encode_from_tokens_scheduled(clip.tokenize("red"))
    return process.memory_info().rss - before


CHILDREN: dict[str, Callable[..., float]] = {"start": start, "first": first, "memory": memory}


def main() -> None:
    """Make the files, time every case, print the tables."""
    given = arguments(__doc__)
    if given.child:
        print(json.dumps(CHILDREN[given.child[0]](*given.child[1:])))
        return

    def child(*task: object) -> float:
        """What one of `CHILDREN` returns, in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.load", "--child", *map(str, task)]
        command += [f"--options={given.options}", f"--comfyui={given.comfyui}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    number, processes = (1, 1) if given.quick else (ROUNDS, PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        fp16 = encoder_file(Path(folder) / "fp16.safetensors", given.quick, torch.float16)
        fp32 = encoder_file(Path(folder) / "fp32.safetensors", given.quick, torch.float32)
        own = clip_file(Path(folder) / "clip_l.safetensors")
        cases = {
            "fp16 file, to read and copy": (("copied", fp16), ("ours", fp16)),
            "fp32 file, to read and copy": (("copied", fp32), ("ours", fp32)),
            "fp16 file, to the own CLIP-L's": (("own", own), ("ours", fp16)),
            "CLIP-L by ComfyUI, to read and copy": (("copied", own), ("own", own)),
        }
        races = {name: Race() for name in cases}
        for name, (plain, ours) in cases.items():
            for _ in range(number):
                turns = [(child("first", *plain), child("first", *ours)) for _ in range(processes)]
                races[name].plain.append(statistics.mean(turn[0] for turn in turns))
                races[name].ours.append(statistics.mean(turn[1] for turn in turns))
        starts = [child("start") for _ in range(number)]
        resident = {
            name: statistics.median(child("memory", kind, path) for _ in range(number))
            for name, kind, path in (("own CLIP-L", "own", own), ("ours", "ours", fp16))
        }
        files = [f"{path.stem} {path.stat().st_size / 1e6:.1f} MB" for path in (own, fp16, fp32)]
    tell(races, "plain", f"ComfyUI {given.options}", given.json, start_s=starts, resident_bytes=resident)
    low, middle, high = (1000 * of(starts) for of in (min, statistics.median, max))
    print(f"start of ComfyUI: {middle:.0f} ms ({low:.0f} .. {high:.0f})")
    shares = [f"{name} {size / 1e6:.0f} MB" for name, size in resident.items()]
    print(f"memory: {', '.join(shares)}, ratio {resident['ours'] / resident['own CLIP-L']:.2f}")
    print(f"files: {', '.join(files)}")


if __name__ == "__main__":
    main()
