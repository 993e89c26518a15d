"""The inspector in a real ComfyUI: what it finds, what it draws, what it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host
from zhclip.tokens import PromptTokenizer
from zhclip.vectors import sentence_vector

CHINESE, ENGLISH = small.captions()[0]
RARE = "\u9f98"  # in no vocabulary of the tests
LAYERS = ["input 1", "middle", "output 0", "output 1"]  # of the tests' small UNet


def inspect(text: str, name: str = "inspect", **inputs: Any) -> Graph:
    """Loader, checkpoint and inspector, its picture saved and its report shown. `inputs` may replace its links."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
        "clip": node("ZhCLIPLoader", file=graphs.ENCODER),
        "inspect": node("ZhCLIPInspector", **{"zhclip": ["clip", 0], "text": text, **inputs}),
        "save": node("SaveImage", images=["inspect", 0], filename_prefix=name),
        "show": node("PreviewAny", source=["inspect", 1]),
    }


def report(host: Host, graph: Graph) -> str:
    """The report of a graph that must run to its end."""
    (text,) = host.outputs(graph)["show"]["text"]
    return text


def agreements(text: str) -> dict[str, list[float]]:
    """The table of the report: layer to figures."""
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    assert lines[0][0] == "layer" and [re.sub(r"[\d.]+$", "", c) for c in lines[0][1:]] == [
        *["prompt, sigma "] * 3,
        "baseline: empty prompt",
        "baseline: another caption",
    ]
    return {row: [float(value) for value in cells] for row, *cells in lines[1:]}


def test_a_prompt_alone_gives_a_picture_and_a_report(host: Host) -> None:
    text = f"({CHINESE}:1.3), {RARE}, best quality"
    outputs = host.outputs(inspect(text, "alone"))
    (found,) = outputs["show"]["text"]
    lines = [line.strip() for line in found.splitlines()]
    assert f"ZhCLIP Inspector: {graphs.ENCODER}" in lines and "Teacher: tests/teacher" in lines
    assert f"zh  1.3  {CHINESE}" in lines or f"zh  1.3  {CHINESE.rstrip(chr(0x3002))}." in lines
    assert "en  1  best quality" in lines
    tokens = PromptTokenizer.from_artifact(small.artifact()).weighted_windows(text)[0]
    assert f"Window 1: {tokens.ids.index(3) - 1} of 75 tokens" in lines
    assert f"[unknown: {RARE}]" in found and lines.count(RARE) == 1
    assert "this encoder: 0.300" in lines and "constant per position: 0.500" in lines
    assert "0.400" in found, "the skill, 1 - 0.3 / 0.5"
    assert "Attention agreement" not in found and "Nearest captions" not in found
    (saved,), (preview,) = outputs["save"]["images"], outputs["inspect"]["images"]
    picture = host.picture(saved)
    assert picture.width == 1024 and 300 < picture.height < 1500
    assert np.asarray(picture).std() > 10
    assert preview["type"] == "temp" and host.picture(preview).size == picture.size


def test_windows_are_counted_one_by_one(host: Host) -> None:
    found = report(host, inspect(f"{CHINESE} BREAK " + f"{CHINESE}, " * 9))
    counts = [int(count) for count in re.findall(r"^Window \d: (\d+) of 75 tokens$", found, re.M)]
    windows = PromptTokenizer.from_artifact(small.artifact()).weighted_windows(f"{CHINESE} BREAK " + f"{CHINESE}, " * 9)
    assert counts == [window.ids.index(3) - 1 for window in windows] and len(counts) > 2
    assert "break  1  BREAK" in found


def test_an_empty_prompt_is_one_empty_window(host: Host) -> None:
    found = report(host, inspect(""))
    assert "Window 1: 0 of 75 tokens\n  (the empty prompt)" in found


def test_a_prompt_agrees_with_itself_in_every_layer_and_the_floors_do_not(host: Host) -> None:
    found = agreements(report(host, inspect(CHINESE, clip=["clip", 0], english=CHINESE, model=["ckpt", 0])))
    assert list(found) == [*LAYERS, "mean"]
    assert all(value == 1 for row in found.values() for value in row[:3])
    assert all(value < 0.999 for row in found.values() for value in row[3:])


def test_prompts_of_unlike_length_are_asked_the_same_queries(host: Host) -> None:
    graph = inspect(f"{CHINESE}, " * 9, clip=["ckpt", 1], english=ENGLISH, model=["queries", 0])
    graph["queries"] = node("QueryProbe", model=["ckpt", 0], name="queries")
    found = agreements(report(host, graph))
    assert list(found) == [*LAYERS, "mean"]
    assert all(-1 <= value < 0.999 for row in found.values() for value in row)
    for column in zip(*found.values()):
        assert abs(sum(column[:-1]) / len(LAYERS) - column[-1]) < 2e-3
    distances = json.loads((host.base / "output" / "queries.json").read_text(encoding="utf-8"))
    assert len(distances) == 3 * len(LAYERS)
    assert max(distances) < 1e-4, "the floors and the prompt were asked other queries than the English was"


def test_the_nearest_captions_are_those_of_the_trainers_own_measure(host: Host) -> None:
    captions = [zh for zh, _ in small.captions()[:8]]
    prompt = small.captions()[9][0]
    vectors = []
    for text in (prompt, *captions):
        host.outputs(graphs.probe(text, "nearest"))
        z = load_file(host.base / "output" / "nearest.safetensors")["cond.0"]
        length = PromptTokenizer.from_artifact(small.artifact()).length(text)
        assert length <= 77
        vectors.append(sentence_vector(z, torch.arange(z.shape[1])[None] < length)[0])
    bank = torch.stack(vectors[1:])
    cosine = torch.nn.functional.cosine_similarity(vectors[0] - bank.mean(dim=0), bank - bank.mean(dim=0))
    expected = sorted(zip(cosine.tolist(), captions), reverse=True)[:5]
    found = report(host, inspect(prompt, captions="\n".join(captions)))
    shown = [(float(value), caption) for value, caption in re.findall(r"^  (-?\d\.\d{3})  (.+)$", found, re.M)]
    assert "Nearest captions (cosine), read by this encoder" in found
    assert [caption for _, caption in shown] == [caption for _, caption in expected]
    assert all(abs(a - b) < 1e-3 for (a, _), (b, _) in zip(shown, expected))
    english = report(host, inspect(prompt, captions=f"{ENGLISH}\n\n{small.captions()[1][1]}", clip=["ckpt", 1]))
    assert "read by the checkpoint's CLIP" in english and ENGLISH in english


def with_encoder(host: Host, text: str, layer: int | None = None, **options: Any) -> str:
    """The report of another encoder, after CLIP Set Last Layer where a layer is given."""
    path = small.saved(host.encoders / "other.safetensors", **options)
    graph = inspect(text)
    graph["clip"]["inputs"]["file"] = path.name
    if layer is not None:
        graph["set"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=layer)
        graph["inspect"]["inputs"]["zhclip"] = ["set", 0]
    found = report(host, graph)
    path.unlink()
    return found


@pytest.mark.parametrize(
    ("layer", "skip", "expected"),
    [
        (None, False, "the last of 3"),
        (None, True, "the last of 3; the file has a target for the layer before it too (clip skip)"),
        (-1, False, "the last of 3"),
        (-2, True, "-2 of 3, which the file was trained for"),
        (-2, False, "-2 of 3, which the file has no target for"),
        (-3, True, "-3 of 3, which the file has no target for"),
    ],
)
def test_the_layer_in_use_is_named(host: Host, layer: int | None, skip: bool, expected: str) -> None:
    (line,) = re.findall(r"^Layer in use: (.*)$", with_encoder(host, CHINESE, layer, layers=3, skip=skip), re.M)
    assert line.partition(":")[0] == expected


@pytest.mark.parametrize("changes", [{"aligned": False}, {"report": {}}])
def test_a_file_that_does_not_beat_a_constant_is_warned_of(host: Host, changes: dict[str, Any]) -> None:
    assert re.search("^Warning: ", with_encoder(host, CHINESE, **changes), re.M)
    assert "Warning" not in report(host, inspect(CHINESE))


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"zhclip": ["ckpt", 1]}, ["Load ZhCLIP Encoder"]),
        ({"english": ENGLISH}, ["english", "clip"]),
        ({"model": ["ckpt", 0]}, ["model", "clip is missing"]),
        ({"model": ["ckpt", 0], "clip": ["ckpt", 1]}, ["model", "english is missing"]),
        ({"captions": ENGLISH}, ["captions"]),
        ({"zhclip": ["narrow", 0], "clip": ["ckpt", 1], "captions": f"{ENGLISH}\nA dog."}, ["768", "384"]),
        (
            {"zhclip": ["narrow", 0], "clip": ["ckpt", 1], "english": ENGLISH, "model": ["ckpt", 0]},
            ["narrow.safetensors", "768", "384"],
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    host: Host, inputs: dict[str, Any], named: list[str]
) -> None:
    path = small.saved(host.encoders / "narrow.safetensors", teacher_width=384)
    message = host.refuse(inspect(CHINESE, **inputs) | {"narrow": node("ZhCLIPLoader", file=path.name)})
    path.unlink()
    assert all(name in message for name in named) and "\n" not in message, message
