"""The Inspector in a real ComfyUI: its report and its picture."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host
from zhclip.tokens import PromptTokenizer

CHINESE = small.captions()[0][0]
RARE = "\u9f98"  # in no vocabulary of the tests


def inspect(text: str, file: str = graphs.ENCODER, **inputs: Any) -> Graph:
    """Loader, checkpoint and Inspector, its picture saved and its report shown. `inputs` may replace its links."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
        "clip": node("ZhCLIPLoader", file=file),
        "inspect": node("ZhCLIPInspector", **{"zhclip": ["clip", 0], "text": text, **inputs}),
        "save": node("SaveImage", images=["inspect", 0], filename_prefix="inspect"),
        "show": node("PreviewAny", source=["inspect", 1]),
    }


def report(host: Host, graph: Graph) -> str:
    """The report of a graph that must run to its end."""
    (text,) = host.outputs(graph)["show"]["text"]
    return text


def test_a_prompt_gives_a_picture_and_a_report(host: Host) -> None:
    text = f"({CHINESE}:1.3), {RARE}, best quality"
    outputs = host.outputs(inspect(text))
    (shown,) = outputs["show"]["text"]
    lines = [line.strip() for line in shown.splitlines()]
    assert f"ZhCLIP Inspector: {graphs.ENCODER}" in lines and "Teacher: tests/teacher" in lines
    assert f"zh  1.3  {CHINESE}" in lines or f"zh  1.3  {CHINESE.rstrip(chr(0x3002))}." in lines
    assert "en  1  best quality" in lines
    tokens = PromptTokenizer.from_artifact(small.artifact()).weighted_windows(text)[0]
    assert f"Window 1: {tokens.ids.index(3) - 1} of 75 tokens" in lines
    assert f"[unknown: {RARE}]" in shown and lines.count(RARE) == 1
    assert "this encoder: 0.300" in lines and "constant per position: 0.500" in lines
    assert "0.400" in shown, "the skill, 1 - 0.3 / 0.5"
    assert "Warning" not in shown
    (saved,), (preview,) = outputs["save"]["images"], outputs["inspect"]["images"]
    picture = host.picture(saved)
    assert picture.width == 1024 and 300 < picture.height < 1500
    assert np.asarray(picture).std() > 10
    assert preview["type"] == "temp" and host.picture(preview).size == picture.size


def test_windows_are_counted_one_by_one_and_the_empty_prompt_is_one(host: Host) -> None:
    text = f"{CHINESE} BREAK " + f"{CHINESE}, " * 9
    shown = report(host, inspect(text))
    counts = [int(count) for count in re.findall(r"^Window \d: (\d+) of 75 tokens$", shown, re.M)]
    windows = PromptTokenizer.from_artifact(small.artifact()).weighted_windows(text)
    assert counts == [window.ids.index(3) - 1 for window in windows] and len(counts) > 2
    assert "break  1  BREAK" in shown
    assert "Window 1: 0 of 75 tokens\n  (the empty prompt)" in report(host, inspect(""))


@pytest.mark.parametrize("skip", [True, False])
def test_the_layer_in_use_is_named_and_what_the_file_was_trained_for(host: Host, skip: bool) -> None:
    path = small.saved(host.encoders / "other.safetensors", layers=3, skip=skip, aligned=False)
    graph = inspect(CHINESE, path.name, zhclip=["set", 0])
    graph["set"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=-2)
    shown = report(host, graph)
    path.unlink()
    assert re.search(
        f"^Layer in use: -2 of 3, which the file {'was trained' if skip else 'has no target'} for", shown, re.M
    )
    assert re.search("^Warning: ", shown, re.M), "its loss is a constant's"


def test_a_checkpoints_own_clip_is_refused_in_one_sentence(host: Host) -> None:
    message = host.refuse(inspect(CHINESE, zhclip=["ckpt", 1]))
    assert "Load ZhCLIP Encoder" in message and "\n" not in message
