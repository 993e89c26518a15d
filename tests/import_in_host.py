"""Import the pack as ComfyUI does at its start, and print what that brings: {"nodes", "modules"} as JSON."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path


def main() -> None:
    """Import, ask for the nodes and their faces, and report the modules that were not there before."""
    sys.argv = [*sys.argv[:1], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.samplers
    import comfy_api.latest  # noqa: F401 - both are what every V3 pack finds there already

    root = Path(__file__).resolve().parent.parent
    before = set(sys.modules)
    name = "custom_nodes_x_zhclip"
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec and spec.loader
    sys.modules[name] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    faces = [node.GET_SCHEMA().node_id for node in nodes]
    print(json.dumps({"nodes": faces, "modules": sorted(set(sys.modules) - before)}))


if __name__ == "__main__":
    main()
