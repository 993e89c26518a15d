"""The CLIP as stock nodes and other packs use it: layers, long prompts, precisions, unloading, a cancelled prompt."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.graphs import node
from tests.host import Host, in_host
from trainer.models.student import Student

WINDOW = 77
LONG = "\u732b\u72d7, " * 4_900  # some 200 windows


def test_other_packs_find_what_they_expect_of_sd15s_clip(tmp_path: Path) -> None:
    in_host("clip_checks.sd15", small.saved(tmp_path / "encoder.safetensors"))


@pytest.mark.parametrize("precision", ["--fp8_e4m3fn-text-enc", "--fp16-text-enc"])
def test_weights_are_loaded_at_the_hosts_precision(precision: str, tmp_path: Path) -> None:
    path, out = small.saved(tmp_path / "encoder.safetensors"), tmp_path / "out.safetensors"
    job = {"artifact": str(path), "prompts": ["red cat", ""], "mode": "loaded", "out": str(out)}
    (tmp_path / "jobs.json").write_text(json.dumps([job]), encoding="utf-8")
    in_host("in_host.encode", tmp_path / "jobs.json", precision=precision)
    exact = Student.from_artifact(small.artifact()).encode_prompt("red cat")
    cosine = torch.cosine_similarity(load_file(out)["cond.0"], exact, dim=-1)
    assert cosine.min() > (0.99999 if "fp16" in precision else 0.9)
    torch.testing.assert_close(load_file(out)["cond.1"], small.artifact().structure["empty"])


def test_calibration_refuses_other_models_clips_by_name() -> None:
    in_host("clip_checks.other_models")


def test_a_cancelled_prompt_stops_and_the_next_one_runs(host: Host) -> None:
    path = small.saved(host.encoders / "slow.safetensors", width=384, layers=8)  # reads LONG for seconds
    host.outputs(graphs.probe("cat", "cancelled", path.name))  # loaded, so that what follows is encoding alone
    prompt = host.post("/prompt", {"prompt": graphs.probe(LONG, "cancelled", path.name)})["prompt_id"]
    time.sleep(1.5)  # past the tokenizer
    assert host.get("/queue")["queue_running"], "it is too fast to be disturbed"
    host.post("/interrupt", {})
    assert "execution_interrupted" in dict(host.wait(prompt)["status"]["messages"])
    host.encode("cat", path.name)
    path.unlink()


@pytest.fixture(scope="module")
def red_cat(host: Host) -> torch.Tensor:
    """A prompt's conditioning (1, 77, 768)."""
    return host.encode("red cat")


def test_the_empty_prompt_is_the_teachers_whole(host: Host) -> None:
    assert torch.equal(host.encode("")[0], small.artifact().structure["empty"])


def test_load_clip_takes_the_file_without_an_error_and_reads_nothing_of_it(host: Host, red_cat: torch.Tensor) -> None:
    """What the help page warns of."""
    loader = {"clip": node("CLIPLoader", clip_name=graphs.ENCODER, type="stable_diffusion")}
    result = host.conditioning(graphs.encode("red cat") | loader)["cond.0"]
    assert result.shape == red_cat.shape and not torch.allclose(result, red_cat, atol=1)
    assert "text_model.final_layer_norm.weight" in host.tail(10**7)  # among those that are missing


def test_structure_holds_in_every_window_of_a_long_prompt(host: Host) -> None:
    result = host.conditioning(graphs.encode("red cat, " * 60))
    stored = small.artifact().structure
    windows = result["cond.0"][0].unflatten(0, (-1, WINDOW))
    assert len(windows) > 1 and result["cond.0"].shape[0] == 1
    assert torch.equal(windows[:, 0], stored["position0"].expand(len(windows), -1))
    assert torch.allclose(windows[:, 1:].norm(dim=-1), stored["norms"][1:, 0].expand(len(windows), -1), rtol=1e-5)
    assert result["pooled.0"].shape == (1, 768)


def test_set_last_layer_gives_another_layer_with_the_same_structure(host: Host, red_cat: torch.Tensor) -> None:
    graph = graphs.encode("red cat")
    graph["text"]["inputs"]["clip"] = ["layer", 0]
    last, before_last = (
        host.conditioning(graph | {"layer": node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=layer)})[
            "cond.0"
        ]
        for layer in (-1, -2)
    )
    norms = small.artifact().structure["norms"][:, 0]
    assert torch.equal(last, red_cat)
    assert (before_last - last).abs().max() > 0.1 and torch.equal(before_last[:, 0], last[:, 0])
    assert torch.allclose(before_last[0, 1:].norm(dim=-1), norms[1:], rtol=1e-5)


def test_an_encoder_that_was_unloaded_encodes_as_before(host: Host, red_cat: torch.Tensor) -> None:
    host.post("/free", {"unload_models": True})
    host.latent(graphs.paint("blue dog", "between", steps=1))
    host.post("/free", {"unload_models": True, "free_memory": True})
    assert torch.equal(host.encode("red cat"), red_cat)
