"""What a start of ComfyUI pays for this pack, and what happens where there is no ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.host import ROOT, in_host

NODES = ["Loader", "TextEncode", "Inspector", "Calibrate", "CompareGrid", "Grid"]
# Loaded by every ComfyUI before any pack is. How long the import takes is measured by `python -m benchmarks.load`.
LIGHT = {"custom_nodes_x_zhclip", "safetensors", "comfy_execution"}


def test_the_import_of_the_pack_brings_nothing_heavy() -> None:
    found = json.loads(in_host(ROOT / "tests" / "import_in_host.py").splitlines()[-1])
    assert sorted(found["nodes"]) == sorted(f"ZhCLIP{name}" for name in NODES)
    foreign = {name.partition(".")[0] for name in found["modules"]} - sys.stdlib_module_names
    assert foreign <= LIGHT, foreign


def test_the_root_can_be_imported_without_comfyui() -> None:
    code = "import importlib.util as u; s = u.spec_from_file_location('pack', '__init__.py'); m = u.module_from_spec(s)"
    code += "; s.loader.exec_module(m); assert not hasattr(m, 'comfy_entrypoint')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
