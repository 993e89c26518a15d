"""Calibration in a real ComfyUI: what it gives, saves and says, and what it refuses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import Graph, node
from tests.host import Host
from trainer.models.clip import load_checkpoint
from zhclip import artifact as fmt
from zhclip.io import digest

PAIRS = 200  # the node's least


def calibrate(save_as: str = "", file: str = graphs.ENCODER, pairs: int = PAIRS) -> Graph:
    """Loaders and the node."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=graphs.CHECKPOINT),
        "clip": node("ZhCLIPLoader", file=file),
        "fit": node("ZhCLIPCalibrate", zhclip=["clip", 0], clip=["ckpt", 1], pairs=pairs, save_as=save_as),
    }


def probed(clip: list, text: str, name: str, layer: int = -1) -> Graph:
    """A prompt through a CLIP, into the probe."""
    return {
        f"{name}.layer": node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=layer),
        f"{name}.text": node("CLIPTextEncode", clip=[f"{name}.layer", 0], text=text),
        f"{name}.probe": node("ConditioningProbe", conditioning=[f"{name}.text", 0], name=name),
    }


def read(host: Host, name: str) -> torch.Tensor:
    return load_file(host.base / "output" / f"{name}.safetensors")["cond.0"]


def said(outputs: dict) -> str:
    """The node's report, as the node shows it."""
    return outputs["fit"]["text"][0]


def figures(line: str) -> list[float]:
    """Loss before, after and of the constant, R@1 before and after."""
    return [float(figure) for figure in re.findall(r"\d\.\d{3}", line)]


def probes() -> Graph:
    """The node's CLIP and the checkpoint's, at both layers."""
    graph = calibrate("sub/tuned") | probed(["fit", 0], "red cat", "memory") | probed(["fit", 0], "red cat", "skip", -2)
    graph |= probed(["ckpt", 1], "", "clip") | probed(["fit", 0], "", "empty")
    return graph | probed(["ckpt", 1], "", "clip2", -2) | probed(["fit", 0], "", "empty2", -2)


@pytest.fixture(scope="module")
def saved(host: Host) -> Iterator[tuple[Path, str]]:
    """A calibrated file and the report of its making."""
    outputs = host.outputs(probes())
    path = host.encoders / "sub" / "tuned.safetensors"
    host.outputs(probes())  # queued again, for another picture: the file is there, and its maker is cached
    yield path, said(outputs)
    path.unlink()


def test_the_report_tells_before_and_after_on_pairs_that_were_not_fitted(saved: tuple[Path, str]) -> None:
    first, last, skip, stored = saved[1].splitlines()
    assert first.startswith(f"{graphs.ENCODER} and the CLIP of {graphs.CHECKPOINT}: {PAIRS} pairs")
    for line, name in ((last, "Last layer: "), (skip, "Clip skip (layer -2): ")):
        assert line.startswith(name)
        before, after, constant, _, recall = figures(line)
        assert 0 < after < 0.9 * before and constant < before and 0 <= recall <= 1
    assert stored == f"Saved as {saved[0]}."


def test_the_file_carries_the_checkpoints_structure_and_says_where_it_came_from(
    host: Host, saved: tuple[Path, str], checkpoint: Path
) -> None:
    old, new = fmt.load(host.encoders / graphs.ENCODER), fmt.load(saved[0])
    assert all(torch.equal(new.bert[name], tensor) for name, tensor in old.bert.items())
    assert new.meta.position0 == "stored" and set(new.skip) == {
        "proj_weight",
        "proj_bias",
        "position0",
        "empty",
        "norms",
    }
    assert new.meta.teacher.id == graphs.CHECKPOINT
    _, (clip,) = load_checkpoint(checkpoint, "teacher.model")
    assert new.meta.teacher.sha256 == digest(clip.state_dict()), "the trainer's digest of the same CLIP"
    told = new.meta.report["calibration"]
    assert told["from"]["id"] == "tests/teacher" and told["applied"] == ["last", "skip"]
    assert new.meta.report["loss"] == old.meta.report["loss"], "the trainer's own report stays"


def test_the_empty_prompt_is_the_checkpoints_and_the_file_loads_as_what_was_kept_in_memory(
    host: Host, saved: tuple[Path, str]
) -> None:
    for ours, clips in (("empty", "clip"), ("empty2", "clip2")):
        torch.testing.assert_close(read(host, ours), read(host, clips), atol=2e-4, rtol=1e-4)
    file = {"clip": node("ZhCLIPLoader", file=str(Path("sub") / "tuned.safetensors"))}
    host.outputs(file | probed(["clip", 0], "red cat", "file") | probed(["clip", 0], "red cat", "file2", -2))
    assert torch.equal(read(host, "file"), read(host, "memory"))
    assert torch.equal(read(host, "file2"), read(host, "skip"))


@pytest.mark.slow
def test_a_second_calibration_finds_nothing_left_to_gain(host: Host, saved: tuple[Path, str]) -> None:
    """What comes out is what went in, and no file is written. The CLIP carries a LoRA too weak to matter, by name."""
    path = host.base / "models" / "loras" / "style.safetensors"
    lora = graphs.save_lora(path, {"lora_te_text_model_encoder_layers_11_mlp_fc2": (768, 3072)})
    graph = calibrate("again", str(Path("sub") / "tuned.safetensors")) | probed(["fit", 0], "red cat", "second")
    graph["lora"] = graphs.load_lora(lora, ["ckpt", 1], strength=1e-4)
    graph["fit"]["inputs"]["clip"] = ["lora", 1]
    report = said(host.outputs(graph)).splitlines()
    assert f"the CLIP of {graphs.CHECKPOINT} + style.safetensors: {PAIRS} pairs" in report[0] and len(report) == 4
    assert figures(report[1])[0] == pytest.approx(figures(saved[1].splitlines()[1])[1], abs=0.002)
    assert torch.equal(read(host, "second"), read(host, "memory"))
    assert not (host.encoders / "again.safetensors").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a:b"])
def test_a_name_outside_the_folder_is_refused_before_anything_runs(host: Host, name: str) -> None:
    answer = host.post("/prompt", {"prompt": calibrate(name)})
    ((error,),) = (entry["errors"] for entry in answer["node_errors"].values())
    assert name in error["details"] and str(host.encoders) in error["details"]


def test_a_file_that_is_there_is_never_overwritten(host: Host) -> None:
    path = host.encoders / graphs.ENCODER
    before = path.read_bytes()
    assert host.refuse(calibrate(graphs.ENCODER.removesuffix(".safetensors"))).startswith(str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zhclip": ["ckpt", 1]}, ["Load ZhCLIP Encoder"]),
        ({"clip": ["clip", 0]}, ["`clip`", "Stable Diffusion 1.5"]),
        ({"zhclip": ["narrow", 0]}, ["384", "768", "tests/teacher"]),
    ],
)
def test_a_clip_in_the_wrong_place_or_of_another_width_is_refused_in_one_sentence(
    host: Host, changes: dict, named: list[str]
) -> None:
    narrow = small.saved(host.encoders / "narrow.safetensors", teacher_width=384)
    graph = calibrate() | {"narrow": node("ZhCLIPLoader", file=narrow.name)}
    graph["fit"]["inputs"] |= changes
    message = host.refuse(graph)
    narrow.unlink()
    assert all(name in message for name in named) and "\n" not in message, message


def test_an_interrupted_run_leaves_no_file(host: Host) -> None:
    prompt = host.post("/prompt", {"prompt": calibrate("stopped", pairs=2000)})["prompt_id"]
    deadline = time.monotonic() + 120
    while prompt not in host.get(f"/history/{prompt}"):
        assert time.monotonic() < deadline
        host.post("/interrupt", {})
    assert "execution_interrupted" in dict(host.wait(prompt)["status"]["messages"])
    assert not list(host.encoders.glob("stopped*"))
