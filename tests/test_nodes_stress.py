"""What happens at once, or in the middle: threads, frees, a cancelled prompt, a file that is gone at its turn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import graphs, small
from tests.host import ROOT, RUN_SECONDS, Host, in_host

LONG = "\u732b\u72d7, " * 12_000  # some 600 windows


@pytest.fixture
def slow(host: Host) -> Iterator[str]:
    """An encoder that reads LONG for seconds."""
    path = small.saved(host.base / "models" / "text_encoders" / "slow.safetensors", width=256, layers=4)
    yield path.name
    path.unlink()


def queued(host: Host, graph: graphs.Graph) -> str:
    """The id of a graph that waits for its turn."""
    answer = host.post("/prompt", {"prompt": graph})
    assert not answer.get("node_errors"), answer
    return answer["prompt_id"]


def ended(host: Host, prompt: str) -> dict[str, object]:
    """How a queued graph ended: its messages by name."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        entry = host.get(f"/history/{prompt}").get(prompt)
        if entry and entry["status"].get("status_str"):
            return dict(entry["status"]["messages"])
        time.sleep(0.1)
    raise AssertionError(host.tail())


def encoding(host: Host, file: str, name: str) -> str:
    """The id of LONG's graph, once its encoder runs."""
    host.succeed(graphs.probe("cat", name, file))  # loaded, so that what follows is encoding alone
    prompt = queued(host, graphs.probe(LONG, name, file))
    while not host.get("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(1)  # beyond the tokenizer
    assert host.get("/queue")["queue_running"], "it is too fast to be disturbed"
    return prompt


def test_a_cancelled_prompt_stops_and_the_next_one_runs(host: Host, slow: str) -> None:
    prompt = encoding(host, slow, "cancelled")
    host.post("/interrupt", {})
    messages = ended(host, prompt)
    assert "execution_interrupted" in messages, messages
    host.succeed(graphs.probe("cat", "after", slow))


def test_memory_is_freed_while_a_prompt_is_encoded_and_nothing_is_lost(host: Host, slow: str) -> None:
    prompt = encoding(host, slow, "freed")
    host.post("/free", {"unload_models": True, "free_memory": True})
    assert "execution_success" in ended(host, prompt)
    first = load_file(host.base / "output" / "freed.safetensors")["cond.0"]
    host.succeed(graphs.probe(LONG, "again", slow))
    assert torch.equal(first, load_file(host.base / "output" / "again.safetensors")["cond.0"])


def test_a_file_deleted_before_its_turn_is_named_and_the_next_prompt_runs(host: Host, slow: str) -> None:
    path = small.saved(host.base / "models" / "text_encoders" / "deleted.safetensors", seed=9)
    running = encoding(host, slow, "first")
    waiting = queued(host, graphs.probe("cat", "second", path.name))
    path.unlink()
    assert "execution_success" in ended(host, running)
    error = ended(host, waiting)["execution_error"]
    assert isinstance(error, dict) and path.name in error["exception_message"], error
    assert len(error["exception_message"]) < 400 and "\n" not in error["exception_message"].strip()
    host.succeed(graphs.probe("cat", "third"))


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.slow
def test_threads_share_a_clip_and_a_file_and_ten_loads_leave_no_memory(tmp_path: Path) -> None:
    path = small.saved(tmp_path / "encoder.safetensors", width=384, layers=6)
    found = json.loads(in_host(ROOT / "tests" / "stress_in_host.py", path, timeout=900).splitlines()[-1])
    size = path.stat().st_size / 1e6
    print(f"a file of {size:.0f} MB; {found}")
    assert found["clip"] == found["file"] == [0.0, 0.0]
    # A lost encoder would be a whole file's memory each time.
    assert found["memory"][-1] - found["memory"][2] < size, found
