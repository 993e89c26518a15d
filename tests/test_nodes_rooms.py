"""Who may know what of ComfyUI: nodes/host/ knows it from inside, every other file what ComfyUI offers to packs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_repository import HOST
from tests.tree import ROOT, tracked

ROOM = "nodes/host/"
# All that the rest of the pack takes from ComfyUI. One more wants a reason: what is not offered to packs changes with
# the version.
OFFERED = {
    "comfy_api.latest",
    "comfy_execution.graph_utils.GraphBuilder",
    "comfy.samplers.KSampler",  # its lists of samplers and schedulers
    "folder_paths",
}
# Attributes of a CLIP or MODEL, and of what is in them, that core's own nodes alone are meant to touch.
INSIDE = {
    "cond_stage_model",
    "clip_l",
    "layer_idx",
    "load_device",
    "load_model",
    "model_config",
    "model_options",
    "patcher",
    "patches",
    "transformer",
    "unet_config",
}


def outside() -> list[str]:
    """The pack's files outside the room."""
    files = [name for name in tracked(".py") if name.startswith(("nodes/", "zhclip/")) or name == "__init__.py"]
    assert len([name for name in files if name.startswith(ROOM)]) > 4, "the room is where this test looks for it"
    return [name for name in files if not name.startswith(ROOM)]


def taken(tree: ast.AST) -> Iterator[str]:
    """What a module takes from ComfyUI, by dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in HOST)
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in HOST:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_offered(name: str) -> bool:
    return any(name == offer or name.startswith(f"{offer}.") for offer in OFFERED)


def test_only_the_hosts_room_imports_more_than_comfyui_offers() -> None:
    names = {(file, name) for file in outside() for name in taken(ast.parse((ROOT / file).read_text("ascii")))}
    assert not [(file, name) for file, name in sorted(names) if not is_offered(name)]
    unused = {offer for offer in OFFERED if not any(name.startswith(offer) for _, name in names)}
    assert not unused, f"nobody takes {unused}"


def test_only_the_hosts_room_touches_what_is_inside_a_clip_or_model() -> None:
    touched = [
        f"{file}:{node.lineno} {node.attr}"
        for file in outside()
        for node in ast.walk(ast.parse((ROOT / file).read_text("ascii")))
        if isinstance(node, ast.Attribute) and node.attr in INSIDE
    ]
    assert not touched, touched
