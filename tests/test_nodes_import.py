"""What a start of ComfyUI pays for this pack, and what happens where there is no ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.host import ROOT, in_host

MILLISECONDS = 50


def test_the_pack_imports_in_50_ms_and_brings_nothing_heavy() -> None:
    runs = [json.loads(in_host(ROOT / "tests" / "import_in_host.py").splitlines()[-1]) for _ in range(3)]
    assert runs[0]["nodes"] == ["ZhCLIPLoader"]
    # The quickest, since the machine does other work too; a heavy import would slow each of them.
    best = min(run["ms"] for run in runs)
    foreign = {name.partition(".")[0] for name in runs[0]["modules"]} - sys.stdlib_module_names
    print(f"import: {best:.1f} ms; third-party modules: {sorted(foreign)}")
    assert best < MILLISECONDS
    assert foreign <= {"custom_nodes_x_zhclip", "safetensors"}, foreign


def test_the_root_can_be_imported_without_comfyui() -> None:
    code = "import importlib.util as u; s = u.spec_from_file_location('pack', '__init__.py'); m = u.module_from_spec(s)"
    code += "; s.loader.exec_module(m); assert not hasattr(m, 'comfy_entrypoint')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
