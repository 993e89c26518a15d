"""The CLIP as other node packs use it, and what happens meanwhile: frees, a cancelled prompt, a deleted file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
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


@pytest.mark.parametrize("precision", ["--fp8_e4m3fn-text-enc", "--fp8_e5m2-text-enc", "--fp16-text-enc"])
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


@pytest.fixture
def slow(host: Host) -> Iterator[str]:
    """An encoder that reads LONG for seconds."""
    path = small.saved(host.encoders / "slow.safetensors", width=384, layers=8)
    yield path.name
    path.unlink()


def start_encoding(host: Host, file: str, name: str) -> str:
    """The id of LONG's graph, once its encoder runs."""
    host.outputs(graphs.probe("cat", name, file))  # loaded, so that what follows is encoding alone
    prompt = host.post("/prompt", {"prompt": graphs.probe(LONG, name, file)})["prompt_id"]
    time.sleep(1.5)  # past the tokenizer
    assert host.get("/queue")["queue_running"], "it is too fast to be disturbed"
    return prompt


def messages(host: Host, prompt: str) -> dict:
    """What ComfyUI told of a queued graph, by kind, once it ended."""
    return dict(host.wait(prompt)["status"]["messages"])


def test_a_cancelled_prompt_stops_and_the_next_one_runs(host: Host, slow: str) -> None:
    prompt = start_encoding(host, slow, "cancelled")
    host.post("/interrupt", {})
    assert "execution_interrupted" in messages(host, prompt)
    host.encode("cat", slow)


def test_memory_is_freed_while_a_prompt_is_encoded_and_nothing_is_lost(host: Host, slow: str) -> None:
    prompt = start_encoding(host, slow, "freed")
    host.post("/free", {"unload_models": True, "free_memory": True})
    assert "execution_success" in messages(host, prompt)
    first = load_file(host.base / "output" / "freed.safetensors")["cond.0"]
    assert torch.equal(first, host.encode(LONG, slow))


def test_a_file_deleted_before_its_turn_is_named_and_the_next_prompt_runs(host: Host, slow: str) -> None:
    path = small.saved(host.encoders / "deleted.safetensors", seed=9)
    running = start_encoding(host, slow, "first")
    waiting = host.post("/prompt", {"prompt": graphs.probe("cat", "second", path.name)})["prompt_id"]
    path.unlink()
    assert "execution_success" in messages(host, running)
    message = messages(host, waiting)["execution_error"]["exception_message"].strip()
    assert path.name in message and "\n" not in message
    host.encode("cat")
