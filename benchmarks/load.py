"""python benchmarks/load.py [--quick] [--json F] [--comfyui FOLDER] [--options="--cpu"]

What having the encoder costs: the start of ComfyUI, the load from file to CLIP, memory, the file itself.

Loading is timed in turns with the least that any loader does, safetensors' `load_file` and one copy of every tensor:
`load_file` alone only maps the file and reads none of it, and is shown too. Beside them stands ComfyUI's own loader
with a CLIP-L. All files are in the system's cache. Start and memory are taken in processes of their own.
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
from pathlib import Path
from typing import Any

import rounds
import torch
from safetensors.torch import load_file

MEGABYTE = 1e6


def copied(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, read."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


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


def memory(kind: str, path: str) -> float:
    """Resident bytes that a CLIP adds, loaded and used once."""
    importlib.import_module("comfy.sd")
    process = importlib.import_module("psutil").Process()
    load = rounds.pack("nodes.clip").load_clip if kind == "ours" else lambda file: rounds.own_clip(Path(file))
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)  # the libraries' own buffers are nobody's
    before = process.memory_info().rss
    clip = load(path)
    with torch.inference_mode():
        clip.encode_from_tokens_scheduled(clip.tokenize("red"))
    return process.memory_info().rss - before


CHILDREN = {"start": start, "memory": memory}


def main() -> None:
    """Make the files, time every case, print the tables."""
    given = rounds.arguments(__doc__)
    rounds.find_comfyui(given.comfyui)
    if given.child:
        print(json.dumps(CHILDREN[given.child[0]](*given.child[1:])))
        return
    number, repeat = (1, 1) if given.quick else (rounds.ROUNDS, 3)
    race = functools.partial(rounds.race, repeat=repeat, number=number, warm=not given.quick)
    load_clip = rounds.pack("nodes.clip").load_clip
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "fp16": rounds.encoder(Path(folder) / "fp16.safetensors", given.quick, torch.float16),
            "fp32": rounds.encoder(Path(folder) / "fp32.safetensors", given.quick, torch.float32),
        }
        own = rounds.clip_file(Path(folder) / "clip_l.safetensors")
        races = {}
        for name, path in files.items():
            load = functools.partial(load_clip, str(path))
            races[f"{name} file, to read and copy"] = race(functools.partial(copied, path), load)
            races[f"{name} file, to map alone"] = race(functools.partial(load_file, path), load)
        races["fp16 file, to the own CLIP-L's"] = race(
            functools.partial(rounds.own_clip, own), functools.partial(load_clip, str(files["fp16"]))
        )
        races["CLIP-L by ComfyUI, to read and copy"] = race(
            functools.partial(copied, own), functools.partial(rounds.own_clip, own)
        )
        starts = [child("start", given=given) for _ in range(number)]
        resident = {
            name: statistics.median(child("memory", name, path, given=given) for _ in range(number))
            for name, path in (("ours", files["fp16"]), ("own CLIP-L", own))
        }
        sizes = {"fp16": files["fp16"].stat().st_size, "fp32": files["fp32"].stat().st_size}
        sizes["own CLIP-L"] = own.stat().st_size
    print(f"ComfyUI {given.options}, {torch.get_num_threads()} threads, torch {torch.__version__}, {number} x {repeat}")
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
