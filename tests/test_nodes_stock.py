"""Stock nodes on the CLIP in a real ComfyUI: layers, conditioning, LoRA, hooks, two samplers, an SD1.5 checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host

WINDOW = 77


def conditioning(host: Host, graph: Graph, name: str) -> dict[str, torch.Tensor]:
    """Run a graph that ends in the probe and read what the probe wrote."""
    host.succeed(graph)
    return load_file(host.base / "output" / f"{name}.safetensors")


def two_texts(name: str, **join: object) -> Graph:
    """Two encoded prompts, joined by a node, into the probe."""
    graph = graphs.probe("red cat", name) | {"second": node("CLIPTextEncode", clip=["clip", 0], text="blue dog")}
    graph["join"] = {"class_type": str(join.pop("kind")), "inputs": join}
    graph["probe"]["inputs"]["conditioning"] = ["join", 0]
    return graph


@pytest.fixture(scope="module")
def texts(host: Host) -> list[torch.Tensor]:
    """The two prompts of `two_texts`, alone: (1, 77, 768) each."""
    return [conditioning(host, graphs.probe(text, "alone"), "alone")["cond.0"] for text in ("red cat", "blue dog")]


def test_the_empty_prompt_is_the_teachers_whole(host: Host) -> None:
    found = conditioning(host, graphs.probe("", "empty"), "empty")
    stored = small.artifact().structure["empty"]
    assert torch.equal(found["cond.0"][0], stored)


def test_load_clip_takes_the_file_without_an_error_and_reads_nothing_of_it(
    host: Host, texts: list[torch.Tensor]
) -> None:
    """What the help page warns of."""
    graph = graphs.probe("red cat", "unread") | {
        "clip": node("CLIPLoader", clip_name=graphs.ENCODER, type="stable_diffusion")
    }
    found = conditioning(host, graph, "unread")["cond.0"]
    assert found.shape == texts[0].shape and not torch.allclose(found, texts[0], atol=1)
    assert "text_model.final_layer_norm.weight" in host.tail(10**7)  # among those that are missing


def test_structure_holds_in_every_window_of_a_long_prompt(host: Host) -> None:
    found = conditioning(host, graphs.probe("red cat, " * 60, "long"), "long")
    stored = small.artifact().structure
    windows = found["cond.0"][0].unflatten(0, (-1, WINDOW))
    assert len(windows) > 1 and found["cond.0"].shape[0] == 1
    assert torch.equal(windows[:, 0], stored["position0"].expand(len(windows), -1))
    assert torch.allclose(windows[:, 1:].norm(dim=-1), stored["norms"][1:, 0].expand(len(windows), -1), rtol=1e-5)
    assert found["pooled.0"].shape == (1, 768)


def test_set_last_layer_gives_another_layer_with_the_same_structure(host: Host, texts: list[torch.Tensor]) -> None:
    graph = graphs.probe("red cat", "layer")
    graph["layer"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=-2)
    graph["text"]["inputs"]["clip"] = ["layer", 0]
    before_last = conditioning(host, graph, "layer")["cond.0"]
    graph["layer"]["inputs"]["stop_at_clip_layer"] = -1
    last = conditioning(host, graph, "layer")["cond.0"]
    norms = small.artifact().structure["norms"][:, 0]
    assert torch.equal(last, texts[0])
    assert (before_last - last).abs().max() > 0.1 and torch.equal(before_last[:, 0], last[:, 0])
    assert torch.allclose(before_last[0, 1:].norm(dim=-1), norms[1:], rtol=1e-5)


def test_conditioning_concat_average_and_combine(host: Host, texts: list[torch.Tensor]) -> None:
    first, second = ["text", 0], ["second", 0]
    concat = two_texts("joined", kind="ConditioningConcat", conditioning_to=first, conditioning_from=second)
    assert torch.equal(conditioning(host, concat, "joined")["cond.0"], torch.cat(texts, dim=1))
    average = two_texts(
        "joined",
        kind="ConditioningAverage",
        conditioning_to=first,
        conditioning_from=second,
        conditioning_to_strength=0.25,
    )
    expected = 0.25 * texts[0] + 0.75 * texts[1]
    assert torch.allclose(conditioning(host, average, "joined")["cond.0"], expected, atol=1e-5)
    combine = two_texts("joined", kind="ConditioningCombine", conditioning_1=first, conditioning_2=second)
    found = conditioning(host, combine, "joined")
    assert torch.equal(found["cond.0"], texts[0]) and torch.equal(found["cond.1"], texts[1])


QUERY = "encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def lora(host: Host) -> str:
    """A LoRA for one matrix of the encoder, in the host's generic naming, and one that only fits CLIP."""
    generator = torch.Generator().manual_seed(3)
    rank = {"lora_up": (64, 4), "lora_down": (4, 64)}
    tensors = {
        f"{at}.{part}.weight": torch.randn(shape, generator=generator)
        for at in (
            f"text_encoders.clip_l.transformer.bert.{QUERY}",
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        )
        for part, shape in rank.items()
    }
    save_file(tensors, host.base / "models" / "loras" / "query.safetensors")
    return "query.safetensors"


def test_a_lora_changes_the_encoder_where_its_keys_fit(host: Host, lora: str, texts: list[torch.Tensor]) -> None:
    graph = graphs.probe("red cat", "lora")
    graph["ckpt"] = node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT)
    graph["lora"] = node(
        "LoraLoader", model=["ckpt", 0], clip=["clip", 0], lora_name=lora, strength_model=1.0, strength_clip=1.0
    )
    graph["text"]["inputs"]["clip"] = ["lora", 1]
    assert (conditioning(host, graph, "lora")["cond.0"] - texts[0]).abs().max() > 0.01
    # The patch belongs to the clone that LoraLoader made: the loader's own CLIP is as before.
    again = conditioning(host, graphs.probe("red cat", "unpatched"), "unpatched")["cond.0"]
    assert torch.equal(again, texts[0])


def test_hooks_apply_to_the_clip_and_travel_with_the_conditioning(
    host: Host, lora: str, texts: list[torch.Tensor]
) -> None:
    graph = graphs.probe("red cat", "hooked")
    graph["hook"] = node("CreateHookLora", lora_name=lora, strength_model=1.0, strength_clip=1.0)
    graph["set"] = node("SetClipHooks", clip=["clip", 0], hooks=["hook", 0], apply_to_conds=True, schedule_clip=False)
    graph["text"]["inputs"]["clip"] = ["set", 0]
    hooked = conditioning(host, graph, "hooked")["cond.0"]
    assert (hooked - texts[0]).abs().max() > 0.01
    with safe_open(host.base / "output" / "hooked.safetensors", "pt") as file:
        assert "hooks" in json.loads(file.metadata()["extras"])[0]


def test_scheduled_hooks_encode_once_for_each_keyframe(host: Host, lora: str, texts: list[torch.Tensor]) -> None:
    graph = graphs.probe("red cat", "scheduled")
    graphs.schedule(graph, lora)
    found = conditioning(host, graph, "scheduled")
    assert torch.equal(found["cond.0"], texts[0])
    assert (found["cond.1"] - texts[0]).abs().max() > 0.01


def test_hooked_conditioning_is_sampled(host: Host, lora: str) -> None:
    graph = graphs.paint("red cat", "hookpaint", steps=1)
    graph["hook"] = node("CreateHookLora", lora_name=lora, strength_model=1.0, strength_clip=1.0)
    graph["pair"] = node(
        "PairConditioningSetProperties",
        positive_NEW=["text", 0],
        negative_NEW=["none", 0],
        strength=1.0,
        set_cond_area="default",
        hooks=["hook", 0],
    )
    graph["sample"]["inputs"] |= {"positive": ["pair", 0], "negative": ["pair", 1]}
    assert picture(host, graph, "save").size == (64, 64)


def picture(host: Host, graph: Graph, at: str) -> Image.Image:
    """The image that a SaveImage node of a graph leaves."""
    (image,) = host.succeed(graph)[at]["images"]
    return host.picture(image)


def test_one_graph_with_two_samplers_paints_two_prompts_by_an_sd15_checkpoint(host: Host) -> None:
    graph = graphs.paint("red cat", "one")
    graph["text2"] = node("CLIPTextEncode", clip=["clip", 0], text="blue dog")
    graph["sample2"] = graphs.sampler(["text2", 0])
    graph["decode2"] = node("VAEDecode", samples=["sample2", 0], vae=["ckpt", 2])
    graph["save2"] = node("SaveImage", images=["decode2", 0], filename_prefix="two")
    outputs = host.succeed(graph)
    first, second = (host.picture(outputs[at]["images"][0]) for at in ("save", "save2"))
    assert first.tobytes() != second.tobytes()


def test_the_checkpoints_own_clip_and_ours_are_joined_by_concat(host: Host, texts: list[torch.Tensor]) -> None:
    graph = two_texts("both", kind="ConditioningConcat", conditioning_to=["text", 0], conditioning_from=["second", 0])
    graph["ckpt"] = node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT)
    graph["second"]["inputs"]["clip"] = ["ckpt", 1]
    found = conditioning(host, graph, "both")["cond.0"]
    assert found.shape == (1, 2 * WINDOW, 768) and torch.equal(found[:, :WINDOW], texts[0])


def test_an_encoder_that_was_unloaded_encodes_as_before(host: Host, texts: list[torch.Tensor]) -> None:
    host.post("/free", {"unload_models": True})
    painted = graphs.paint("blue dog", "between", steps=1)
    assert picture(host, painted, "save").size == (64, 64)
    host.post("/free", {"unload_models": True, "free_memory": True})
    again = conditioning(host, graphs.probe("red cat", "unloaded"), "unloaded")["cond.0"]
    assert torch.equal(again, texts[0])
