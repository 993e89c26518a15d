"""What people combine with a prompt, on the real ComfyUI: precisions, little memory, LoRA, hooks.

Every prompt here is weighted and two windows long.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import Graph
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


def test_half_precision_stays_near_fp32_and_paints(tmp_path: Path, checkpoint: Path, modes: dict) -> None:
    """ComfyUI stores the text encoder in fp16 and computes in fp32. Measured over PROMPTS: 0.040 degrees, 0.0007."""
    with started(tmp_path, checkpoint, "--fp16-text-enc", "--fp16-unet") as host:
        result = [host.encode(text)[0] for text in PROMPTS]
        host.latent(base())
    for i, half in enumerate(result):
        full = modes["NORMAL_VRAM"][f"cond.{i}"][0]
        cosine = torch.nn.functional.cosine_similarity(half.double(), full.double(), dim=-1).clamp(-1, 1)
        assert float(torch.rad2deg(cosine.acos()).max()) < 0.1
        assert 0 <= float((half - full).norm(dim=-1).max() / full.norm(dim=-1).max()) < 0.002


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
    graph |= graphs.hook(lora, ["clip", 0], 0.5)
    graph["text"]["inputs"]["clip"] = ["hook", 0]
    hooked = host.latent(graph)
    graph["hook.1"]["inputs"]["strength_mult"] = 0.0
    never = host.latent(graph)
    # Prompts with hooks run apart from those without, and so in other batches: latents of 400 then differ by 0.0005.
    assert (never - plain).abs().max() < 0.002 and (hooked - plain).abs().max() > 0.02
