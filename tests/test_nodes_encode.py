"""ZhCLIPTextEncode in a real ComfyUI: two encoders in one prompt, beside what stock nodes make of the same pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import graphs
from tests.graphs import Graph, node
from tests.host import Host
from zhclip.languages import Segment, route

WINDOW = 77
CHINESE = "\uff08\u7ea2\u8272\uff1a1.3\uff09\u7684\u732b\uff0c\u4e00\u53ea\u72d7"
ENGLISH = "(best quality:1.2), masterpiece, by Greg Rutkowski"
MIXED = f"{CHINESE} by a river, my_trigger\uff0c(best quality:1.4)"
SOURCES: Graph = {
    "ckpt": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
    "zh": node("ZhCLIPLoader", file=graphs.ENCODER),
}
ENCODERS = {"zh": ["zh", 0], "en": ["ckpt", 1]}


def ours(text: str, **inputs: Any) -> Graph:
    """The prompt through the node, by both encoders unless `inputs` says otherwise; a None input is left out."""
    given = {"zhclip": ENCODERS["zh"], "clip": ENCODERS["en"], "text": text, **inputs}
    return SOURCES | {
        "text": node("ZhCLIPTextEncode", **{name: value for name, value in given.items() if value is not None})
    }


def stock(segments: list[Segment], encoders: dict[str, list[Any]] = ENCODERS) -> Graph:
    """Each segment through CLIPTextEncode, all joined by ConditioningConcat."""
    graph = dict(SOURCES)
    for i, (language, prompt) in enumerate(segments):
        graph[f"text{i}"] = node("CLIPTextEncode", clip=encoders[language], text=prompt)
        joined = [f"join{i - 1}" if i > 1 else "text0", 0]
        graph[f"join{i}"] = node("ConditioningConcat", conditioning_to=joined, conditioning_from=[f"text{i}", 0])
    graph["text"] = graph.pop(f"join{len(segments) - 1}")
    return graph if len(segments) > 1 else graph | {"text": graph.pop("text0")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two conditionings are equal in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("graph", "segments"),
    [
        (ours(CHINESE), [Segment("zh", CHINESE)]),
        (ours(""), [Segment("zh", "")]),
        (ours("3D\u6e32\u67d3 BREAK \U0001f431"), [Segment("zh", "3D\u6e32\u67d3 BREAK \U0001f431")]),
        (ours(ENGLISH), [Segment("en", ENGLISH)]),
        *(
            (ours(text), [Segment("en", text)])
            for text in ["a  cat,\nembedding:none\\(x\\), " + "red, " * 60]  # two windows
        ),
        (ours(MIXED, clip=None), [Segment("zh", MIXED)]),
        (ours(ENGLISH, clip=None), [Segment("zh", ENGLISH)]),
    ],
    ids=["weighted", "empty", "break", "english", "long", "mixed, one clip", "english, one clip"],
)
def test_a_prompt_of_one_encoder_is_what_the_stock_node_makes_by_that(
    host: Host, graph: Graph, segments: list[Segment]
) -> None:
    assert same(host.conditioning(graph), host.conditioning(stock(segments)))


@pytest.mark.parametrize("text", [MIXED, f"{MIXED} BREAK a cat BREAK {CHINESE}, embedding:none"], ids=["one", "parts"])
def test_both_are_the_stock_nodes_pieces_joined_by_the_stock_concat(host: Host, text: str) -> None:
    segments = route(text)
    result = host.conditioning(ours(text))
    assert same(result, host.conditioning(stock(segments)))
    assert result["cond.0"].shape == (1, WINDOW * len(segments), 768)
    assert [language for language, _ in segments] == ["zh", "en", "en", "zh", "en"][: len(segments)]
    assert len(segments) == (2 if text == MIXED else 5)


def test_the_pooled_vector_is_the_aligned_encoders_wherever_it_stands(host: Host) -> None:
    result = host.conditioning(ours(f"a cat BREAK {CHINESE}"))
    assert torch.equal(result["pooled.0"], host.conditioning(stock([Segment("zh", CHINESE)]))["pooled.0"])


@pytest.fixture(scope="module")
def lora(host: Host) -> str:
    """A LoRA for one matrix of SD1.5's CLIP, in the naming that SD1.5's LoRAs have."""
    path = host.base / "models" / "loras" / "clip.safetensors"
    return graphs.save_lora(path, {"lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)})


def test_a_lora_on_clip_changes_its_windows_and_no_bit_elsewhere(host: Host, lora: str) -> None:
    before = host.conditioning(ours(MIXED))
    loader = {"lora": graphs.load_lora(lora, ["ckpt", 1])}
    after = host.conditioning(ours(MIXED, clip=["lora", 1]) | loader)
    assert torch.equal(before["cond.0"][:, :WINDOW], after["cond.0"][:, :WINDOW])
    assert (before["cond.0"] - after["cond.0"])[:, WINDOW:].abs().max() > 0.01
    assert torch.equal(before["pooled.0"], after["pooled.0"])
    assert same(after, host.conditioning(stock(route(MIXED), ENCODERS | {"en": ["lora", 1]}) | loader))


def test_layers_and_textual_inversions_of_clip_act_on_the_english_alone(host: Host) -> None:
    path = host.base / "models" / "embeddings" / "inversion.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({"emb_params": torch.ones(2, 768)}, path)
    text, layer = (
        f"{CHINESE}\uff0cembedding:inversion",
        {"layer": node("CLIPSetLastLayer", clip=["ckpt", 1], stop_at_clip_layer=-2)},
    )
    pieces = [Segment("zh", CHINESE), Segment("en", "embedding:inversion")]
    result = host.conditioning(ours(text))
    assert same(result, host.conditioning(stock(pieces)))
    skipped = stock(pieces, ENCODERS | {"en": ["layer", 0]}) | layer
    assert same(host.conditioning(ours(text, clip=["layer", 0]) | layer), host.conditioning(skipped))
    path.unlink()


def test_a_hook_on_clip_goes_on_to_the_sampler_and_one_with_keyframes_is_refused(host: Host, lora: str) -> None:
    plain = host.conditioning(ours(MIXED))["cond.0"]
    graph = ours(MIXED, clip=["hook", 0])
    result = host.conditioning(graph | graphs.hook(lora, ENCODERS["en"]))["cond.0"]
    assert torch.equal(result[:, :WINDOW], plain[:, :WINDOW]) and not torch.equal(result, plain)
    assert host.extras("hooks") == [1]
    probe = {"probe": node("ConditioningProbe", conditioning=["text", 0], name="refused")}
    assert "Conditioning (Concat)" in host.refuse(graph | graphs.hook(lora, ENCODERS["en"], 0.5) | probe)


@pytest.fixture(scope="module")
def wrong(host: Host, checkpoint: Path) -> Graph:
    """CLIPs that the node refuses: of a checkpoint without a text encoder, and of Stable Audio, whose T5 is 768 wide
    too and is known by one tensor."""
    tensors = {name: tensor for name, tensor in load_file(checkpoint).items() if name.startswith("model.diffusion")}
    save_file(tensors, host.base / "models" / "checkpoints" / "bare.safetensors")
    t5 = {"encoder.block.0.layer.0.SelfAttention.k.weight": torch.zeros(768, 768)}
    save_file(t5, host.encoders / "t5.safetensors")
    return {
        "bare": node("CheckpointLoaderSimple", ckpt_name="bare.safetensors"),
        "t5": node("CLIPLoader", clip_name="t5.safetensors", type="stable_audio"),
    }


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"clip": ["bare", 1]}, ["clip is None"]),
        ({"zhclip": ["bare", 1]}, ["zhclip", "Load ZhCLIP Encoder"]),
        ({"zhclip": ENCODERS["en"]}, ["zhclip", "Load ZhCLIP Encoder"]),
        ({"clip": ENCODERS["zh"]}, ["The input clip", "ZhCLIP encoder"]),
        ({"clip": ["t5", 0]}, ["Stable Diffusion 1.5", "t5base"]),
    ],
)
def test_wrong_clips_are_refused_by_name(host: Host, wrong: Graph, inputs: dict[str, Any], named: list[str]) -> None:
    output = {"probe": node("ConditioningProbe", conditioning=["text", 0], name="refused")}
    message = host.refuse(ours(MIXED, **inputs) | wrong | output)
    assert all(name in message for name in named), message
