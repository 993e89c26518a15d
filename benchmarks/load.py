"""Loading our file beside reading and copying it, and beside CLIP-L's: python -m benchmarks.load [--quick] [--json F]

The least that any loader does is safetensors' `load_file`, which maps the file, and one copy of every tensor. Each is
the first load of a process of its own, since a process that has freed as much memory before gets it back ready to be
written. All files are in the system's cache, everything is imported.
"""

from __future__ import annotations

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

PROCESSES = 3  # of each loader in a round: a single one is off by a sixth


def loader(kind: str) -> Callable[[str], Any]:
    """From a path to what that kind of loading makes; all is imported, and torch's threads run."""
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)
    if kind == "copied":
        return lambda path: {name: tensor.clone() for name, tensor in load_file(path).items()}
    importlib.import_module("comfy.sd")
    return pack("nodes.host.clip").load_clip if kind == "ours" else own_clip


def first(kind: str, path: str) -> float:
    """Seconds of the first load."""
    load = loader(kind)
    began = time.perf_counter()
    loaded = load(path)
    seconds = time.perf_counter() - began
    del loaded
    return seconds


def main() -> None:
    """Make the files, time every case, print the tables."""
    given = arguments(__doc__)
    if given.child:
        print(json.dumps(first(*given.child)))
        return

    def child(kind: str, path: Path) -> float:
        """`first` in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.load", "--child", kind, str(path)]
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
                turns = [(child(*plain), child(*ours)) for _ in range(processes)]
                races[name].plain.append(statistics.mean(turn[0] for turn in turns))
                races[name].ours.append(statistics.mean(turn[1] for turn in turns))
    tell(races, "plain", f"ComfyUI {given.options}", given.json)


if __name__ == "__main__":
    main()
