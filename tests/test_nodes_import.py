"""What the nodes import: nothing heavy at ComfyUI's start, and of ComfyUI's internals only in nodes/host/."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from tests.host import in_host
from tests.tree import ROOT, tracked

NODES = ["Loader", "TextEncode", "Inspector", "Calibrate", "CompareGrid", "Grid", "Train"]
# Every ComfyUI has loaded the latter two before any pack. How long the import takes is measured by benchmarks.nodes.
LIGHT = {"pack", "safetensors", "comfy_execution"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
# All that is imported from ComfyUI outside nodes/host/. What ComfyUI does not offer to packs changes with its version.
OFFERED = {
    "comfy_api.latest",
    "comfy_execution.graph_utils.GraphBuilder",
    "comfy.samplers.KSampler",  # its lists of samplers and schedulers
    "folder_paths",
}


def test_the_import_of_the_pack_loads_nothing_heavy() -> None:
    result = in_host("in_host.import_pack")
    assert sorted(result["nodes"]) == sorted(f"ZhCLIP{name}" for name in NODES)
    foreign = {name.partition(".")[0] for name in result["modules"]} - sys.stdlib_module_names
    assert foreign <= LIGHT, foreign


def test_the_root_can_be_imported_without_comfyui() -> None:
    code = "import importlib.util as u; s = u.spec_from_file_location('pack', '__init__.py'); m = u.module_from_spec(s)"
    code += "; s.loader.exec_module(m); assert not hasattr(m, 'comfy_entrypoint')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what a module imports from ComfyUI."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in COMFYUI)
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in COMFYUI:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_the_host_package_imports_more_than_comfyui_offers() -> None:
    files = [name for name in tracked(".py") if name.startswith(("nodes/", "zhclip/")) and "/host/" not in name]
    names = {(file, name) for file in files for name in imported(ast.parse((ROOT / file).read_text("ascii")))}
    offered = {name: [offer for offer in OFFERED if f"{name}.".startswith(f"{offer}.")] for _, name in names}
    assert not [(file, name) for file, name in names if not offered[name]]
    assert {offer for offers in offered.values() for offer in offers} == OFFERED
