"""What people combine with a prompt, on the real ComfyUI: precisions, little memory, LoRA, hooks, areas, ControlNet.

Every prompt here is weighted and two windows long. tests/test_nodes_encode.py has hooks on the CLIP,
tests/test_nodes_sdxl.py Concat, Average and Combine, tests/test_parity.py an encoder that is streamed layer by layer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host, in_host, started

CHINESE = [zh for zh, _ in small.captions()]
LONG = [f"({CHINESE[i]}:1.4), " + ", ".join(CHINESE[i + 1 : i + 8]) for i in (0, 10)]
PROMPTS = ["red cat", f"{CHINESE[0]}, (red:1.5) cat", *LONG, ""]
WINDOW = 77


def base(text: str = LONG[0], steps: int = 1) -> Graph:
    """`graphs.paint` of a small picture."""
    return graphs.paint(text, "option", size=32, steps=steps)


@pytest.fixture(scope="module")
def plain(host: Host) -> torch.Tensor:
    """The latent of `base` itself."""
    return host.latent(base())


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What in_host.memory_modes made, in fp32, under each of ComfyUI's memory modes."""
    out = tmp_path_factory.mktemp("modes")
    artifact = small.saved(out / "encoder.safetensors")
    job = {"artifact": str(artifact), "checkpoint": str(checkpoint), "prompts": PROMPTS, "out": str(out)}
    (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
    in_host("in_host.memory_modes", out / "job.json")
    return {mode: load_file(out / f"{mode}.safetensors") for mode in ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM")}


@pytest.mark.parametrize("mode", ["LOW_VRAM", "NO_VRAM"])
def test_streamed_encoder_and_model_make_what_loaded_ones_make(modes: dict, mode: str) -> None:
    loaded, result = modes["NORMAL_VRAM"], modes[mode]
    assert int(loaded.pop("streamed.clip", 0)) == int(loaded.pop("streamed.model", 0)) == 0
    # At least the encoder's linear layers, six in each of two, and most of the UNet.
    assert int(result.pop("streamed.clip")) >= 12 and int(result.pop("streamed.model")) >= 50
    assert result["cond.2"].shape == (1, 2 * WINDOW, 768) and result["picture"].std() > 0.05
    assert {name: float((result[name] - loaded[name]).abs().max()) for name in loaded} == dict.fromkeys(loaded, 0.0)


def test_gligen_is_given_the_pooled_vector_of_a_prompt(modes: dict) -> None:
    pooled = modes["NORMAL_VRAM"]
    assert pooled["gligen"].shape == (1, 768) and torch.equal(pooled["gligen"], pooled["pooled"])


NAMES = {"fp16": "float16", "bf16": "bfloat16"}
PRECISIONS = {"fp16": ("--fp16-text-enc", "--fp16-unet"), "bf16": ("--bf16-text-enc", "--bf16-unet")}
# Largest angle to fp32 in degrees, and largest difference as a share of the largest norm. Measured over PROMPTS: 0.040
# and 0.0007 in fp16, 0.26 and 0.0043 in bf16. (ComfyUI stores text encoders so, and computes in fp32.)
TOLERANCE = {"fp16": (0.1, 0.002), "bf16": (0.6, 0.01)}


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_half_precision_stays_near_fp32_and_paints(
    tmp_path: Path, checkpoint: Path, modes: dict, precision: str
) -> None:
    with started(tmp_path, checkpoint, *PRECISIONS[precision]) as host:
        result = [host.encode(text)[0] for i, text in enumerate(PROMPTS)]
        host.latent(base())
        assert f"current: cpu, dtype: torch.{NAMES[precision]}" in host.tail(10**7)
    angles, shares = [], []
    for i, half in enumerate(result):
        full = modes["NORMAL_VRAM"][f"cond.{i}"][0]
        cosine = torch.nn.functional.cosine_similarity(half.double(), full.double(), dim=-1).clamp(-1, 1)
        angles.append(float(torch.rad2deg(cosine.acos()).max()))
        shares.append(float((half - full).norm(dim=-1).max() / full.norm(dim=-1).max()))
    print(f"{precision}: degrees {angles}, shares {shares}")
    assert max(angles) < TOLERANCE[precision][0] and max(shares) < TOLERANCE[precision][1]
    assert max(shares) > 0


@pytest.fixture(scope="module")
def lora(host: Host) -> str:
    """A LoRA as SD1.5's are: for the UNet's cross-attention, and for CLIP's layers, which this encoder has not."""
    unet = {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (320, 768)}
    clip = {f"lora_te_text_model_encoder_layers_{i}_mlp_fc1": (3072, 768) for i in range(2)}
    folder = host.base / "models" / "loras"
    graphs.save_lora(folder / "unet.safetensors", unet)
    return graphs.save_lora(folder / "sd15.safetensors", unet | clip)


def test_a_lora_patches_the_model_and_its_keys_for_clip_are_left_out(
    host: Host, lora: str, plain: torch.Tensor
) -> None:
    graph = base() | {"lora": graphs.load_lora(lora, ["clip", 0])}
    graph["text"]["inputs"]["clip"] = ["lora", 1]
    graph["sample"]["inputs"]["model"] = ["lora", 0]
    logged = len(host.tail(10**7))
    whole = host.latent(graph)
    lines = [line for line in host.tail(10**7)[logged:].splitlines() if "lora" in line]
    assert len(lines) == 4 and all("lora key not loaded: lora_te_" in line for line in lines), lines
    assert torch.equal(host.conditioning(graph)["cond.0"], host.encode(LONG[0]))
    graph["lora"]["inputs"]["lora_name"] = "unet.safetensors"
    assert torch.equal(host.latent(graph), whole) and (whole - plain).abs().max() > 0.02


def test_a_hook_on_the_model_acts_in_the_steps_of_its_keyframe(host: Host, lora: str) -> None:
    graph = base(steps=2)
    plain = host.latent(graph)
    graph |= graphs.hook(lora, ["clip", 0], [0.5])
    graph["text"]["inputs"]["clip"] = ["hook", 0]
    hooked = host.latent(graph)
    graph["hook.1"]["inputs"]["strength_mult"] = 0.0
    never = host.latent(graph)
    # Prompts with hooks run apart from those without, and so in other batches: latents of 400 then differ by 0.0005.
    assert (never - plain).abs().max() < 0.002 and (hooked - plain).abs().max() > 0.02


def areas(right: str) -> Graph:
    """Two prompts, each for its half of a picture, without guidance: nothing else sees both."""
    graph = base() | {"text2": node("CLIPTextEncode", clip=["clip", 0], text=right)}
    graph["latent"]["inputs"] |= {"width": 128, "height": 64}
    graph["sample"]["inputs"]["cfg"] = 1.0
    for i, text in enumerate(("text", "text2")):
        area = dict(width=64, height=64, x=64 * i, y=0, strength=1.0)
        graph[f"half{i}"] = node("ConditioningSetArea", conditioning=[text, 0], **area)
    graph["both"] = node("ConditioningCombine", conditioning_1=["half0", 0], conditioning_2=["half1", 0])
    graph["sample"]["inputs"]["positive"] = ["both", 0]
    return graph


def test_a_regional_prompt_changes_its_region_alone(host: Host) -> None:
    first, second = (host.latent(areas(text)) for text in LONG)
    half = first.shape[-1] // 2
    assert torch.equal(first[..., :half], second[..., :half]) and (first - second)[..., half:].abs().max() > 0.01


def test_a_controlnet_takes_the_conditioning_and_reads_its_prompt(host: Host, plain: torch.Tensor) -> None:
    folder = host.base / "models" / "controlnet"
    folder.mkdir(exist_ok=True)
    in_host("checkpoints.controlnet", folder / "net.safetensors")
    graph = base() | graphs.controlnet("net.safetensors")
    graph["sample"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    assert (host.latent(graph) - plain).abs().max() > 0.05
    kept = host.conditioning(graph, "control")
    assert torch.equal(kept["cond.0"], host.encode(LONG[0])) and kept["pooled.0"].shape == (1, 768)


def test_a_pack_that_patches_attention_finds_the_conditioning_there(host: Host, plain: torch.Tensor) -> None:
    graph = base()
    graph["patch"] = node("AttentionProbe", model=["ckpt", 0], name="attention", tokens=4)
    graph["sample"]["inputs"]["model"] = ["patch", 0]
    patched = host.latent(graph)
    context = load_file(host.base / "output" / "attention.safetensors")["context"]
    cond = host.encode(LONG[0])
    assert context.shape == (2, 2 * WINDOW, 768)
    assert min(float((row - cond[0]).abs().max()) for row in context) < 0.05  # fp16 UNet
    assert (patched - plain).abs().max() > 0.001
