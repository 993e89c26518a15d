"""Our own nodes with an SDXL file, checkpoint and CLIP in the real ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host
from zhclip import artifact as fmt
from zhclip.languages import route
from zhclip.structure import structures

ENCODER = graphs.SDXL_ENCODER
L, G = WIDTHS = (768, 1280)
WINDOW = 77
CHINESE, ENGLISH = small.captions()[0]


def bilingual(text: str, zhclip: str = ENCODER, clip: list[Any] | None = None) -> Graph:
    """The prompt through ZhCLIP Text Encode, its English by SDXL's own CLIP unless `clip` says otherwise."""
    return {
        "own": node("SDXLClip"),
        "clip": node("ZhCLIPLoader", file=zhclip),
        "sd15": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
        "text": node("ZhCLIPTextEncode", zhclip=["clip", 0], text=text, clip=clip or ["own", 0]),
    }


def test_english_is_read_by_sdxls_own_clip_and_pooled_is_the_chinese(sdxl: Host) -> None:
    text = f"masterpiece, best quality BREAK ({CHINESE}:1.2), my_trigger"
    graph, segments = bilingual(text), route(text)
    for i, (language, prompt) in enumerate(segments):
        graph[f"text{i}"] = node("CLIPTextEncode", clip=["clip" if language == "zh" else "own", 0], text=prompt)
    assert [language for language, _ in segments] == ["en", "zh", "en"]
    result = sdxl.conditioning(graph)
    pieces = [sdxl.conditioning(graph, f"text{i}") for i in range(3)]
    assert result["cond.0"].shape == (1, 3 * WINDOW, L + G)
    assert torch.equal(result["cond.0"], torch.cat([piece["cond.0"] for piece in pieces], dim=1))
    assert torch.equal(result["pooled.0"], pieces[1]["pooled.0"])
    english = sdxl.conditioning(bilingual("masterpiece, best quality"))
    assert torch.equal(english["pooled.0"], pieces[0]["pooled.0"])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"clip": ["sd15", 1]}, "SDXL"), ({"zhclip": graphs.ENCODER}, "Stable Diffusion 1.5")],
)
def test_a_clip_of_another_kind_of_checkpoint_is_refused_by_name(
    sdxl: Host, options: dict[str, Any], named: str
) -> None:
    probe = {"probe": node("ConditioningProbe", conditioning=["text", 0], name="refused")}
    message = sdxl.refuse(bilingual("cat", **options) | probe)
    assert f"the ZhCLIP encoder is for {named}" in message and "\n" not in message, message


@pytest.mark.slow
def test_calibration_fits_both_parts_and_the_pooled_vector(sdxl: Host) -> None:
    path = sdxl.base / "models" / "text_encoders" / "tuned.safetensors"
    graph: Graph = {"own": node("SDXLClip"), "clip": node("ZhCLIPLoader", file=ENCODER)}
    graph["fit"] = node("ZhCLIPCalibrate", zhclip=["clip", 0], clip=["own", 0], pairs=200, save_as="tuned")
    for name, clip, text in (("own", "own", ""), ("empty", "fit", ""), ("memory", "fit", "red cat")):
        graph[f"{name}.text"] = node("CLIPTextEncode", clip=[clip, 0], text=text)
        graph[f"{name}.probe"] = node("ConditioningProbe", conditioning=[f"{name}.text", 0], name=name)
    said = sdxl.outputs(graph)["fit"]["text"][0].splitlines()
    own, empty, memory = (load_file(sdxl.base / "output" / f"{n}.safetensors") for n in ("own", "empty", "memory"))
    old, new = small.sdxl_artifact(WIDTHS, pooled=G), fmt.load(path)
    loaded = sdxl.conditioning(graphs.encode("red cat", path.name))
    path.unlink()
    assert [line.split(":")[0] for line in said[1:3]] == ["Last layer", "Pooled vector"] and len(said) == 4
    told = new.meta.report["calibration"]
    assert told["applied"] == ["last", "pooled"] and new.meta.teacher.layer == -2 and new.meta.widths == WIDTHS
    for at in ("last", "pooled"):
        assert 0 < told[at]["loss"]["after"] < 0.9 * told[at]["loss"]["before"]
    for kind in ("cond.0", "pooled.0"):
        torch.testing.assert_close(empty[kind], own[kind], atol=2e-3, rtol=1e-3)
        assert torch.equal(loaded[kind], memory[kind])
    mean, std, table = (new.structure[name] for name in ("mean", "std", "norms"))
    assert torch.equal(mean, old.structure["mean"]) and table.shape == (WINDOW, 2)
    standard = structures(new)["structure"].standardised()
    states = (loaded["cond.0"][0] - mean) / std
    parts = torch.stack([part.norm(dim=-1) for part in states.split(WIDTHS, dim=-1)], dim=-1)
    torch.testing.assert_close(parts[1:], table[1:], rtol=1e-3, atol=1e-3)
    assert standard.position0 is not None
    torch.testing.assert_close(states[0], standard.position0, atol=1e-3, rtol=1e-3)
