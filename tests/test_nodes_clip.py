"""The CLIP as other node packs use it, at the host's precisions, and a cancelled prompt."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.host import Host, in_host
from trainer.models.student import Student

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
