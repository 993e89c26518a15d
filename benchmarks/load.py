"""python benchmarks/load.py [--quick] [--json F] [--comfyui FOLDER] [--options="--cpu"]

What having the encoder costs: the start of ComfyUI, the load from file to CLIP, memory, the file itself.

Loading is held against the least that any loader does, safetensors' `load_file` and one copy of every tensor (alone,
`load_file` maps the file and reads none of it), and against ComfyUI's own loader with a CLIP-L. Each is the first load
of a process of its own, which a user waits for: a process that has freed as much memory before gets it back ready to
be written, and reads and copies in half of the time. All files are in the system's cache, everything is imported.
"""

from __future__ import annotations

import asyncio
import functools
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

import rounds
import torch
from safetensors.torch import load_file

MEGABYTE = 1e6
PROCESSES = 3  # a round, each way: one alone is off by a sixth


def copied(path: str) -> dict[str, torch.Tensor]:
    """Every tensor of a file, read."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def loader(kind: str) -> Callable[[str], Any]:
    """From a path to what that kind of loading makes."""
    if kind == "copied":
        return copied
    importlib.import_module("comfy.sd")
    return rounds.pack("nodes.clip").load_clip if kind == "ours" else lambda path: rounds.own_clip(Path(path))


def child(*task: Any, given: Any) -> Any:
    """What one of `CHILDREN` prints, in a process of its own."""
    command = [sys.executable, __file__, "--child", *map(str, task), f"--options={given.options}"]
    command += ["--comfyui", str(given.comfyui)] if given.comfyui else []
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def start() -> float:
    """Seconds that ComfyUI's start spends on the pack: its import, its list of nodes and their schemas."""
    for name in ("comfy.samplers", "comfy_api.latest"):  # what ComfyUI itself has imported before any pack
        importlib.import_module(name)
    began = time.perf_counter()
    extension = rounds.pack("nodes.extension")
    nodes = asyncio.run(asyncio.run(extension.comfy_entrypoint()).get_node_list())
    for node in nodes:
        node.GET_SCHEMA()
    return time.perf_counter() - began


def first(kind: str, path: str) -> float:
    """Seconds of the first load."""
    load = loader(kind)
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)  # torch starts its threads
    began = time.perf_counter()
    loaded = load(path)
    seconds = time.perf_counter() - began
    del loaded
    return seconds


def memory(kind: str, path: str) -> float:
    """Resident bytes that a CLIP adds, loaded and used once."""
    process = importlib.import_module("psutil").Process()
    load = loader(kind)
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)  # the libraries' own buffers are nobody's
    before = process.memory_info().rss
    clip = load(path)
    with torch.inference_mode():
        clip.encode_from_tokens_scheduled(clip.tokenize("red"))
    return process.memory_info().rss - before


CHILDREN = {"start": start, "first": first, "memory": memory}


def main() -> None:
    """Make the files, time every case, print the tables."""
    given = rounds.arguments(__doc__)
    rounds.find_comfyui(given.comfyui)
    if given.child:
        print(json.dumps(CHILDREN[given.child[0]](*given.child[1:])))
        return
    number = 1 if given.quick else rounds.ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "fp16": rounds.encoder(Path(folder) / "fp16.safetensors", given.quick, torch.float16),
            "fp32": rounds.encoder(Path(folder) / "fp32.safetensors", given.quick, torch.float32),
        }
        own = rounds.clip_file(Path(folder) / "clip_l.safetensors")
        cases = {
            f"{name} file, to read and copy": (("copied", path), ("ours", path)) for name, path in files.items()
        } | {
            "fp16 file, to the own CLIP-L's": (("own", own), ("ours", files["fp16"])),
            "CLIP-L by ComfyUI, to read and copy": (("copied", own), ("own", own)),
        }
        races = {name: rounds.Race() for name in cases}
        seconds = functools.partial(child, "first", given=given)
        for name, (plain, ours) in cases.items():
            for _ in range(number):
                turns = [(seconds(*plain), seconds(*ours)) for _ in range(1 if given.quick else PROCESSES)]
                races[name].plain.append(statistics.mean(turn[0] for turn in turns))
                races[name].ours.append(statistics.mean(turn[1] for turn in turns))
        starts = [child("start", given=given) for _ in range(number)]
        resident = {
            name: statistics.median(child("memory", name, path, given=given) for _ in range(number))
            for name, path in (("ours", files["fp16"]), ("own CLIP-L", own))
        }
        sizes = {"fp16": files["fp16"].stat().st_size, "fp32": files["fp32"].stat().st_size}
        sizes["own CLIP-L"] = own.stat().st_size
    print(f"ComfyUI {given.options}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(rounds.table(races, "plain"))
    low, high = min(starts), max(starts)
    print(f"start of ComfyUI: {1000 * statistics.median(starts):.0f} ms ({1000 * low:.0f} .. {1000 * high:.0f})")
    for name, size in resident.items():
        print(f"memory, {name}: {size / MEGABYTE:.0f} MB")
    for name, size in sizes.items():
        print(f"file, {name}: {size / MEGABYTE:.1f} MB")
    figures: dict[str, Any] = {name: measured.summary() for name, measured in races.items()}
    figures |= {"start_s": starts, "resident_bytes": resident, "file_bytes": sizes}
    rounds.write(given.json, {**figures["fp16 file, to read and copy"], "cases": figures})


if __name__ == "__main__":
    main()
