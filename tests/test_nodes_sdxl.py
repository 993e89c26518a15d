"""An SDXL file in the real ComfyUI: its CLIP at every stock node, an SDXL checkpoint painted with, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import encoders, graphs, small
from tests.graphs import Graph, node
from tests.host import Host, in_host
from trainer.models.student import Student
from trainer.models.teacher import load_teacher
from zhclip import artifact as fmt
from zhclip.languages import route
from zhclip.models import SDXL
from zhclip.structure import structures

CHECKPOINT, ENCODER = graphs.SDXL_CHECKPOINT, graphs.SDXL_ENCODER
L, G = WIDTHS = (768, 1280)
WINDOW = 77
CHINESE = small.captions()[0][0]
TOLERANCE = 1e-4
SIZES = dict(width=64, height=64, crop_w=0, crop_h=0, target_width=64, target_height=64)


def artifact(**options: Any) -> fmt.Artifact:
    """A random encoder of SDXL's widths."""
    return small.sdxl_artifact(WIDTHS, pooled=G, **options)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`artifact()` in a file."""
    path = tmp_path_factory.mktemp("sdxl") / ENCODER
    fmt.save(artifact(), path)
    return path


def by_arithmetic(created: fmt.Artifact, prompts: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """By transformers' own BertModel: (windows * W, D) and pooled (P,) each."""
    expected = small.by_transformers(created, prompts)
    return expected["prompt_embeds"], expected["pooled_prompt_embeds"]


@torch.inference_mode()
def test_trainer_and_node_are_the_shared_arithmetic_loaded_and_offloaded(encoder: Path, tmp_path: Path) -> None:
    prompts = small.prompts()
    assert len(prompts) == 200 and "" in prompts
    prompts = prompts + small.weighted(prompts)
    jobs = [
        {
            "artifact": str(encoder),
            "mode": mode,
            "prompts": prompts[::step],
            "out": str(tmp_path / f"{mode}.safetensors"),
        }
        for mode, step in (("loaded", 1), ("offloaded", 10))
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    in_host("in_host.encode", tmp_path / "jobs.json")
    conds, pooleds = by_arithmetic(artifact(), prompts)
    student = Student.from_artifact(artifact())
    figures = {("trainer", "cond"): small.largest_difference([student.encode_prompt(text) for text in prompts], conds)}
    for (mode, step), job in zip((("loaded", 1), ("offloaded", 10)), jobs):
        result = load_file(str(job["out"]))
        for kind, expected in (("cond", conds[::step]), ("pooled", pooleds[::step])):
            figures[mode, kind] = small.largest_difference(
                [result[f"{kind}.{i}"] for i in range(len(expected))], expected
            )
    print(f"largest differences from zhclip's arithmetic: {figures}")
    assert max(figures.values()) < TOLERANCE, figures
    assert conds[0].shape[1] == L + G and pooleds[0].shape == (G,) and max(map(len, conds)) >= 3 * WINDOW


def test_the_clip_and_calibrations_reading_of_sdxls_own(encoder: Path, tmp_path: Path) -> None:
    """clip_checks.sdxl, and its digest is the trainer's of the same file or folder."""
    digest = in_host("clip_checks.sdxl", encoder)
    pipeline = encoders.sdxl_teacher(tmp_path / "sdxl")
    teacher = load_teacher(str(encoder.with_name("own.safetensors")), WINDOW, tokenizer=str(pipeline))
    models: Any = teacher.models
    for part, model in zip(SDXL.parts, models):
        model.save_pretrained(pipeline / part.folder)
    assert digest == teacher.sha256 == load_teacher(str(pipeline), WINDOW).sha256


# On the server


def texts(*prompts: str) -> Graph:
    """The encoder, and CLIPTextEncode of each prompt: text, text1, ..."""
    encoded = {f"text{i or ''}": node("CLIPTextEncode", clip=["clip", 0], text=text) for i, text in enumerate(prompts)}
    return {"clip": node("ZhCLIPLoader", file=ENCODER)} | encoded


@pytest.fixture(scope="module")
def alone(sdxl: Host) -> list[dict[str, torch.Tensor]]:
    """Two prompts by themselves."""
    return [sdxl.conditioning(texts(text)) for text in ("red cat", "blue dog")]


def test_clip_text_encode_gives_what_sdxl_reads(sdxl: Host, alone: list[dict[str, torch.Tensor]]) -> None:
    (first, second), created = alone, artifact()
    assert first["cond.0"].shape == (1, WINDOW, L + G) and first["pooled.0"].shape == (1, G)
    assert not torch.equal(first["pooled.0"], second["pooled.0"])
    empty = sdxl.conditioning(texts(""))
    assert torch.equal(empty["cond.0"][0], created.structure["empty"])
    assert torch.equal(empty["pooled.0"], created.pooled["empty"])
    long = sdxl.conditioning(texts("red cat BREAK blue dog"))
    assert torch.allclose(long["cond.0"], torch.cat([one["cond.0"] for one in alone], dim=1), atol=1e-4)
    assert torch.allclose(long["pooled.0"], first["pooled.0"], atol=1e-4)
    weighted = sdxl.conditioning(texts("(red:1.5) cat"))
    changes = [*(weighted["cond.0"] - first["cond.0"]).split(WIDTHS, dim=-1), weighted["pooled.0"] - first["pooled.0"]]
    assert min(float(change.abs().max()) for change in changes) > 0.01


def test_clip_text_encode_sdxl_reads_two_texts_and_sizes(sdxl: Host, alone: list[dict[str, torch.Tensor]]) -> None:
    graph = texts() | {
        "text": node("CLIPTextEncodeSDXL", clip=["clip", 0], text_l="red cat", text_g="blue dog", **SIZES)
    }
    (red, blue), result = alone, sdxl.conditioning(graph)
    assert torch.equal(result["cond.0"][..., :L], red["cond.0"][..., :L])
    assert torch.equal(result["cond.0"][..., L:], blue["cond.0"][..., L:])
    assert torch.equal(result["pooled.0"], blue["pooled.0"])
    assert sdxl.extras("numbers")[0] == SIZES
    empty = artifact().structure["empty"]
    for longer, shorter, columns in (("text_l", "text_g", slice(L, None)), ("text_g", "text_l", slice(L))):
        graph["text"]["inputs"] |= {longer: "red cat BREAK blue dog", shorter: "red cat"}
        result = sdxl.conditioning(graph)
        assert result["cond.0"].shape == (1, 2 * WINDOW, L + G)
        assert torch.equal(result["cond.0"][0, WINDOW:, columns], empty[:, columns])


def test_clip_set_last_layer_counts_as_for_sdxls_own_clip(sdxl: Host, alone: list[dict[str, torch.Tensor]]) -> None:
    graph = texts("red cat")
    graph["text"]["inputs"]["clip"] = ["layer", 0]
    for layer in (-1, -2, -3):
        graph["layer"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=layer)
        result = sdxl.conditioning(graph)
        assert torch.equal(result["cond.0"], alone[0]["cond.0"]) == (layer != -3)
        assert torch.equal(result["pooled.0"], alone[0]["pooled.0"])
    assert "no target for that layer" in sdxl.tail(10**7)


def painting(text: str = "red cat", steps: int = 1) -> Graph:
    """`graphs.paint` with the SDXL checkpoint, the loader's check of its MODEL included."""
    graph = graphs.paint(text, "sdxl", file=ENCODER, size=32, steps=steps)
    graph["ckpt"]["inputs"]["ckpt_name"] = CHECKPOINT
    return graph


@pytest.fixture(scope="module")
def plain(sdxl: Host) -> torch.Tensor:
    """The latent of `painting` itself."""
    return sdxl.latent(painting())


@pytest.mark.slow
def test_prompts_pooled_vectors_and_sizes_reach_the_unet(sdxl: Host, plain: torch.Tensor) -> None:
    assert not torch.equal(sdxl.latent(painting("blue dog")), plain)
    graph = painting()
    graph["text"] = node("CLIPTextEncodeSDXL", clip=["clip", 0], text_l="red cat", text_g="red cat", **SIZES)
    uncropped = sdxl.latent(graph)
    graph["text"]["inputs"] |= {"crop_w": 512}
    assert not torch.equal(sdxl.latent(graph), uncropped)
    # The same keys to attention in another order, and the first window's pooled vector.
    one, other = (sdxl.latent(painting(text)) for text in ("red cat BREAK blue dog", "blue dog BREAK red cat"))
    assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "model", "figures"),
    [
        (None, graphs.CHECKPOINT, ["2048", "SD15", "768"]),
        (lambda: small.artifact(), CHECKPOINT, ["768", "SDXL", "2048"]),
        (lambda: small.artifact(teacher_width=L + G), CHECKPOINT, ["no pooled vector", "1280"]),
        (lambda: small.sdxl_artifact(WIDTHS, pooled=L), CHECKPOINT, ["768", "1280", "SDXL"]),
    ],
)
def test_a_file_for_another_kind_of_model_is_refused_at_the_loader(
    sdxl: Host, make: Any, model: str, figures: list[str]
) -> None:
    path = sdxl.encoders / ("other.safetensors" if make else ENCODER)
    if make:
        fmt.save(make(), path)
    graph = painting()
    graph["clip"]["inputs"]["file"] = path.name
    graph["ckpt"]["inputs"]["ckpt_name"] = model
    message = sdxl.refuse(graph)
    assert all(figure in message for figure in [str(path), *figures]) and "\n" not in message, message


# The other nodes of the pack


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
