"""ZhCLIPTextEncode in a real ComfyUI: two encoders in one prompt, beside what stock nodes make of the same pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import graphs, small
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


def probed(host: Host, graph: Graph, name: str) -> dict[str, torch.Tensor]:
    """Run a graph whose node "text" gives a conditioning, and read that."""
    host.succeed(graph | {"probe": node("ConditioningProbe", conditioning=["text", 0], name=name)})
    return load_file(host.base / "output" / f"{name}.safetensors")


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


@pytest.mark.parametrize("text", [CHINESE, "", "3D\u6e32\u67d3 BREAK \U0001f431"], ids=["weighted", "empty", "break"])
def test_chinese_alone_is_the_stock_nodes_by_the_aligned_encoder(host: Host, text: str) -> None:
    assert same(probed(host, ours(text), "zh"), probed(host, stock([Segment("zh", text)]), "stock"))


@pytest.mark.parametrize("text", [ENGLISH, "a  cat,\nembedding:none\\(x\\), " + "red, " * 60], ids=["weighted", "long"])
def test_english_alone_is_the_stock_nodes_by_clip_and_no_window_of_the_other(host: Host, text: str) -> None:
    found = probed(host, ours(text), "en")
    assert same(found, probed(host, stock([Segment("en", text)]), "stock"))
    assert found["cond.0"].shape[1] == (2 * WINDOW if "red" in text else WINDOW)


def test_without_the_second_input_everything_is_the_aligned_encoders(host: Host) -> None:
    for text in (MIXED, ENGLISH):
        assert same(probed(host, ours(text, clip=None), "alone"), probed(host, stock([Segment("zh", text)]), "stock"))


@pytest.mark.parametrize("text", [MIXED, f"{MIXED} BREAK a cat BREAK {CHINESE}, embedding:none"], ids=["one", "parts"])
def test_both_are_the_stock_nodes_pieces_joined_by_the_stock_concat(host: Host, text: str) -> None:
    segments = route(text)
    found = probed(host, ours(text), "both")
    assert same(found, probed(host, stock(segments), "stock"))
    assert found["cond.0"].shape == (1, WINDOW * len(segments), 768)
    assert [language for language, _ in segments] == ["zh", "en", "en", "zh", "en"][: len(segments)]
    assert len(segments) == (2 if text == MIXED else 5)


def test_the_pooled_vector_is_the_aligned_encoders_wherever_it_stands(host: Host) -> None:
    found = probed(host, ours(f"a cat BREAK {CHINESE}"), "pooled")
    assert torch.equal(found["pooled.0"], probed(host, stock([Segment("zh", CHINESE)]), "stock")["pooled.0"])


def test_weights_act_in_both_encoders(host: Host) -> None:
    weighted = probed(host, ours("(\u7ea2\u8272 red dress:1.3)\u7684\u732b"), "weighted")["cond.0"]
    plain = probed(host, ours("\u7ea2\u8272 red dress\u7684\u732b"), "plain")["cond.0"]
    parts = [(weighted - plain)[:, at : at + WINDOW].abs().max() for at in (0, WINDOW)]
    assert weighted.shape[1] == 2 * WINDOW and min(parts) > 0.01


@pytest.fixture(scope="module")
def lora(host: Host) -> str:
    """A LoRA for one matrix of SD1.5's CLIP, in the naming that SD1.5's LoRAs have."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"lora_up": (768, 4), "lora_down": (4, 768)}
    save_file(
        {
            f"lora_te_text_model_encoder_layers_0_self_attn_q_proj.{part}.weight": torch.randn(
                shape, generator=generator
            )
            for part, shape in shapes.items()
        },
        host.base / "models" / "loras" / "clip.safetensors",
    )
    return "clip.safetensors"


def test_a_lora_on_clip_changes_its_windows_and_no_bit_elsewhere(host: Host, lora: str) -> None:
    before = probed(host, ours(MIXED), "before")
    graph = ours(MIXED, clip=["lora", 1])
    graph["lora"] = node(
        "LoraLoader", model=["ckpt", 0], clip=["ckpt", 1], lora_name=lora, strength_model=1.0, strength_clip=1.0
    )
    after = probed(host, graph, "after")
    assert torch.equal(before["cond.0"][:, :WINDOW], after["cond.0"][:, :WINDOW])
    assert (before["cond.0"] - after["cond.0"])[:, WINDOW:].abs().max() > 0.01
    assert torch.equal(before["pooled.0"], after["pooled.0"])
    patched = stock(route(MIXED), {"zh": ENCODERS["zh"], "en": ["lora", 1]}) | {"lora": graph["lora"]}
    assert same(after, probed(host, patched, "stock"))


def test_layers_and_textual_inversions_of_clip_act_on_the_english_alone(host: Host) -> None:
    path = host.base / "models" / "embeddings" / "inversion.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({"emb_params": torch.ones(2, 768)}, path)
    text = f"{CHINESE}\uff0cembedding:inversion"
    graph = ours(text, clip=["layer", 0])
    graph["layer"] = node("CLIPSetLastLayer", clip=["ckpt", 1], stop_at_clip_layer=-2)
    pieces = [Segment("zh", CHINESE), Segment("en", "embedding:inversion")]
    found = probed(host, ours(text), "inversion")
    assert same(found, probed(host, stock(pieces), "stock"))
    skipped = stock(pieces, {"zh": ENCODERS["zh"], "en": ["layer", 0]}) | {"layer": graph["layer"]}
    assert same(probed(host, graph, "layer"), probed(host, skipped, "stock"))
    path.unlink()
    without = probed(host, ours(text + " "), "gone")["cond.0"]
    assert torch.equal(without[:, :WINDOW], found["cond.0"][:, :WINDOW]) and not torch.equal(without, found["cond.0"])


def scheduled(clip: list[Any], lora: str, at: list[float], name: str) -> Graph:
    """Nodes that let a LoRA on a CLIP begin at a part of sampling; node `name` is the CLIP."""
    graph = {f"{name}hook": node("CreateHookLora", lora_name=lora, strength_model=1.0, strength_clip=1.0)}
    last: dict[str, Any] = {}
    for i, start in enumerate([0.0, *at]):
        graph[f"{name}{i}"] = node("CreateHookKeyframe", strength_mult=float(i), start_percent=start, **last)
        last = {"prev_hook_kf": [f"{name}{i}", 0]}
    graph[f"{name}keys"] = node("SetHookKeyframes", hooks=[f"{name}hook", 0], hook_kf=last["prev_hook_kf"])
    graph[name] = node("SetClipHooks", clip=clip, hooks=[f"{name}keys", 0], apply_to_conds=True, schedule_clip=True)
    return graph


def facts(host: Host, name: str, key: str) -> Any:
    """What the probe noted beside the tensors."""
    with safe_open(host.base / "output" / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


def ranges(host: Host, name: str) -> list[tuple[float, float]]:
    """The part of sampling that each entry is for."""
    return [(n["clip_start_percent"], n["clip_end_percent"]) for n in facts(host, name, "numbers")]


def test_hooks_scheduled_on_clip_give_an_entry_for_each_range(host: Host, lora: str) -> None:
    plain = probed(host, ours(MIXED), "plain")["cond.0"]
    found = probed(host, ours(MIXED, clip=["en", 0]) | scheduled(ENCODERS["en"], lora, [0.5], "en"), "hooked")
    assert torch.equal(found["cond.0"], plain) and torch.equal(found["cond.1"][:, :WINDOW], plain[:, :WINDOW])
    assert (found["cond.1"] - plain)[:, WINDOW:].abs().max() > 0.01
    assert ranges(host, "hooked") == [(0.0, 0.5), (0.5, 1.0)]
    assert all("hooks" in names for names in facts(host, "hooked", "extras"))


def test_schedules_of_two_encoders_are_divided_where_either_changes(host: Host, lora: str) -> None:
    matrix = "text_encoders.clip_l.transformer.bert.encoder.layer.0.attention.self.query"
    own = {f"{matrix}.lora_up.weight": torch.ones(64, 4), f"{matrix}.lora_down.weight": torch.ones(4, 64)}
    save_file(own, host.base / "models" / "loras" / "own.safetensors")
    graph = ours(MIXED, zhclip=["z", 0], clip=["e", 0])
    graph |= scheduled(ENCODERS["zh"], "own.safetensors", [0.25, 0.5], "z") | scheduled(
        ENCODERS["en"], lora, [0.5], "e"
    )
    found = probed(host, graph, "two")
    assert ranges(host, "two") == [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)]
    chinese, english = zip(*(found[f"cond.{i}"].split(WINDOW, dim=1) for i in range(3)))
    assert torch.equal(english[0], english[1]) and not torch.equal(english[1], english[2])
    assert not torch.equal(chinese[0], chinese[1]) and not torch.equal(chinese[1], chinese[2])
    # Both encoders' hooks go on to the sampler, where a MODEL is patched by them.
    assert facts(host, "two", "hooks") == [2, 2, 2]


def test_a_bilingual_prompt_is_painted(host: Host) -> None:
    graph = graphs.paint("", "bilingual", steps=1)
    for name, text in (("text", MIXED), ("none", "blurry, \u6a21\u7cca")):
        graph[name] = node("ZhCLIPTextEncode", zhclip=["clip", 0], clip=["ckpt", 1], text=text)
    (image,) = host.succeed(graph)["save"]["images"]
    assert host.picture(image).size == (64, 64)


@pytest.fixture(scope="module")
def encoderless(host: Host, checkpoint: Path) -> str:
    """A checkpoint without a text encoder."""
    tensors = {name: tensor for name, tensor in load_file(checkpoint).items() if name.startswith("model.diffusion")}
    save_file(tensors, host.base / "models" / "checkpoints" / "encoderless.safetensors")
    return "encoderless.safetensors"


def test_a_checkpoint_without_a_text_encoder_is_refused_as_by_the_stock_node(host: Host, encoderless: str) -> None:
    bare = {"bare": node("CheckpointLoaderSimple", ckpt_name=encoderless)}
    message = host.refuse(ours(MIXED, clip=["bare", 1]) | bare | saved())
    assert "your checkpoint does not contain a valid clip or text encoder model" in message
    assert "The input clip is invalid: None" in message and "ZhCLIP then reads the English too" in message
    message = host.refuse(ours(MIXED, zhclip=["bare", 1]) | bare | saved())
    assert message == "The input zhclip is None: connect the output of Load ZhCLIP Encoder."


def saved() -> Graph:
    """An output node, without which nothing runs."""
    return {"probe": node("ConditioningProbe", conditioning=["text", 0], name="refused")}


def test_clips_at_the_wrong_inputs_are_refused_by_name(host: Host) -> None:
    message = host.refuse(ours(MIXED, zhclip=ENCODERS["en"]) | saved())
    assert message.startswith("The input zhclip: This CLIP is not a ZhCLIP encoder")
    message = host.refuse(ours(MIXED, clip=ENCODERS["zh"]) | saved())
    assert message.startswith("The input clip is a ZhCLIP encoder like the input zhclip: connect")


def test_an_encoder_of_another_width_than_clips_is_refused_with_both(host: Host) -> None:
    path = small.saved(host.base / "models" / "text_encoders" / "narrow.safetensors", teacher_width=384)
    message = host.refuse(ours(ENGLISH) | saved() | {"zh": node("ZhCLIPLoader", file=path.name)})
    assert message.startswith("The input clip encodes 768 numbers wide, the ZhCLIP encoder 384"), message
    path.unlink()


def test_the_text_encoder_of_another_kind_of_model_is_refused_by_its_tokenizers(host: Host) -> None:
    # Stable Audio's T5 is 768 wide, too. Its file is known by one tensor, and it is refused before it encodes.
    t5 = {"encoder.block.0.layer.0.SelfAttention.k.weight": torch.zeros(768, 768)}
    save_file(t5, host.base / "models" / "text_encoders" / "t5.safetensors")
    graph = ours(MIXED, clip=["t5", 0]) | saved()
    graph["t5"] = node("CLIPLoader", clip_name="t5.safetensors", type="stable_audio")
    message = host.refuse(graph)
    assert "The input clip is of another kind of model" in message
    assert "has the tokenizer l, and this one has the tokenizer t5base" in message
    (host.base / "models" / "text_encoders" / "t5.safetensors").unlink()


def test_the_node_says_its_rule(host: Host) -> None:
    face = host.get("/object_info/ZhCLIPTextEncode")["ZhCLIPTextEncode"]
    assert face["description"].startswith("Chinese -> ZhCLIP, english -> CLIP.")
    assert face["input_order"] == {"required": ["zhclip", "text"], "optional": ["clip"]}
    assert face["input"]["required"]["text"][1].items() >= {"multiline": True, "dynamicPrompts": True}.items()
    assert face["output"] == ["CONDITIONING"]
