"""The Inspector in a real ComfyUI: its report, its picture, and the inputs that it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host
from zhclip.tokens import PromptTokenizer
from zhclip.vectors import sentence_vector

CHINESE, ENGLISH = small.captions()[0]
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
    assert "Nearest captions" not in shown and "Warning" not in shown
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


def test_the_nearest_captions_are_those_of_the_trainers_own_measure(host: Host) -> None:
    captions = [zh for zh, _ in small.captions()[:8]]
    prompt = small.captions()[9][0]
    vectors = []
    for text in (prompt, *captions):
        z = host.encode(text)
        length = PromptTokenizer.from_artifact(small.artifact()).length(text)
        assert length <= 77
        vectors.append(sentence_vector(z, torch.arange(z.shape[1])[None] < length)[0])
    bank = torch.stack(vectors[1:])
    cosine = torch.nn.functional.cosine_similarity(vectors[0] - bank.mean(dim=0), bank - bank.mean(dim=0))
    expected = sorted(zip(cosine.tolist(), captions), reverse=True)[:5]
    shown = report(host, inspect(prompt, captions="\n".join(captions)))
    rows = [(float(value), caption) for value, caption in re.findall(r"^  (-?\d\.\d{3})  (.+)$", shown, re.M)]
    assert "Nearest captions (cosine), read by this encoder" in shown
    assert [caption for _, caption in rows] == [caption for _, caption in expected]
    assert all(abs(a - b) < 1e-3 for (a, _), (b, _) in zip(rows, expected))
    english = report(host, inspect(prompt, captions=f"{ENGLISH}\n\n{small.captions()[1][1]}", clip=["ckpt", 1]))
    assert "read by the checkpoint's CLIP" in english and ENGLISH in english


@pytest.mark.parametrize(
    ("layer", "skip", "expected"),
    [
        (-1, True, "the last of 3; the file has a target for the layer before it too (clip skip)"),
        (-1, False, "the last of 3"),
        (-2, True, "-2 of 3, which the file was trained for"),
        (-2, False, "-2 of 3, which the file has no target for"),
    ],
)
def test_the_layer_in_use_is_named(host: Host, layer: int, skip: bool, expected: str) -> None:
    path = small.saved(host.encoders / "other.safetensors", layers=3, skip=skip)
    graph = inspect(CHINESE, path.name, zhclip=["set", 0])
    graph["set"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=layer)
    (line,) = re.findall(r"^Layer in use: (.*)$", report(host, graph), re.M)
    path.unlink()
    assert line.partition(":")[0] == expected


@pytest.mark.parametrize("changes", [{"aligned": False}, {"report": {}}])
def test_a_file_that_does_not_beat_a_constant_is_warned_of(host: Host, changes: dict[str, Any]) -> None:
    path = small.saved(host.encoders / "other.safetensors", **changes)
    shown = report(host, inspect(CHINESE, path.name))
    path.unlink()
    assert re.search("^Warning: ", shown, re.M)


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"zhclip": ["ckpt", 1]}, ["Load ZhCLIP Encoder"]),
        ({"captions": ENGLISH}, ["captions"]),
        ({"zhclip": ["narrow", 0], "clip": ["ckpt", 1], "captions": f"{ENGLISH}\nA dog."}, ["768", "384"]),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    host: Host, inputs: dict[str, Any], named: list[str]
) -> None:
    path = small.saved(host.encoders / "narrow.safetensors", teacher_width=384)
    message = host.refuse(inspect(CHINESE, **inputs) | {"narrow": node("ZhCLIPLoader", file=path.name)})
    path.unlink()
    assert all(name in message for name in named) and "\n" not in message, message
