"""The real ComfyUI for the tests: fixtures that share one process, and scripts in a process that can import ComfyUI."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from painter import host as comfyui
from painter.host import QUIET, ROOT, error_of
from tests import graphs, small
from zhclip import artifact as fmt

PACKS = {"zhclip": ROOT, "probe.py": ROOT / "tests" / "probe.py"}


class Host(comfyui.Host):
    """A running ComfyUI with what the tests ask of it."""

    @property
    def encoders(self) -> Path:
        """models/text_encoders."""
        return self.base / "models" / "text_encoders"

    def picture(self, image: dict[str, str]) -> Image.Image:
        """A picture that a graph saved, as its outputs name it, in RGB. NaN would be of one colour."""
        result = Image.open(self.base / image["type"] / image["subfolder"] / image["filename"]).convert("RGB")
        assert any(low < high for low, high in result.getextrema()), image  # type: ignore[misc]
        return result

    def latent(self, graph: graphs.Graph) -> torch.Tensor:
        """Run a graph with the nodes `sample` and `save`. Returns the sampled latent (B, 4, h, w)."""
        keep = graphs.node("SaveLatent", samples=["sample", 0], filename_prefix="latent")
        outputs = self.outputs(graph | {"keep": keep})
        for image in outputs["save"]["images"]:
            self.picture(image)
        latent = load_file(self.base / "output" / outputs["keep"]["latents"][0]["filename"])["latent_tensor"]
        assert latent.isfinite().all() and latent.std() > 0.1
        return latent

    def conditioning(self, graph: graphs.Graph, at: str = "text") -> dict[str, torch.Tensor]:
        """Run a graph whose node `at` gives a conditioning. Returns cond.<entry> (1, tokens, D) and pooled.<entry>."""
        probe = graphs.node("ConditioningProbe", conditioning=[at, 0], name="probe")
        self.outputs(graph | {"probe": probe})
        return load_file(self.base / "output" / "probe.safetensors")

    def extras(self, key: str) -> Any:
        """What the last probe noted of each entry beside the tensors: its "extras", "numbers" or "hooks"."""
        with safe_open(self.base / "output" / "probe.safetensors", "pt") as file:
            return json.loads(file.metadata()[key])

    def encode(self, text: str, file: str = graphs.ENCODER) -> torch.Tensor:
        """A prompt by the loader and CLIPTextEncode: (1, windows * W, D)."""
        return self.conditioning(graphs.encode(text, file))["cond.0"]

    def refuse(self, graph: graphs.Graph) -> str:
        """The message of a graph that is refused before it runs, or fails: one line."""
        answer = self.post("/prompt", {"prompt": graph})
        if answer.get("node_errors"):
            (node,) = answer["node_errors"].values()
            (error,) = node["errors"]
            return error["details"]
        return error_of(self.wait(answer["prompt_id"]))


@contextlib.contextmanager
def running(base: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Host]:
    """ComfyUI over a base directory with this pack and the probe, started with options of its own."""
    with comfyui.running(base, PACKS, options, environment) as host:
        yield Host(host.base, host.port, host.log)


@contextlib.contextmanager
def started(base: Path, checkpoint: Path, *options: str) -> Iterator[Host]:
    """`running`, with the small SD1.5 checkpoint and a small encoder."""
    with running(base, *options) as host:
        (base / "models" / "checkpoints" / graphs.CHECKPOINT).symlink_to(checkpoint)
        small.saved(host.encoders / graphs.ENCODER)
        yield host


def in_host(function: str, *arguments: str | Path, timeout: float = 600, precision: str = "--fp32-text-enc") -> Any:
    """Call `module.function` of tests/ in a process that can import ComfyUI, started with `precision`. Returns its
    result, by JSON."""
    path = os.pathsep.join([str(comfyui.comfyui()), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "in_host.py"), function, *map(str, arguments)],
        env={**os.environ, **QUIET, "PYTHONPATH": path, "TEXT_ENCODER_PRECISION": precision},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that ComfyUI takes for SD1.5, with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / graphs.CHECKPOINT
    in_host("checkpoints.sd15", path)
    return path


@pytest.fixture(scope="session")
def sdxl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint that ComfyUI takes for SDXL, with random weights and without a CLIP."""
    path = tmp_path_factory.mktemp("checkpoint") / graphs.SDXL_CHECKPOINT
    in_host("checkpoints.sdxl", path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Host]:
    """ComfyUI with this pack, the small SD1.5 checkpoint and a small 768-wide encoder."""
    with started(tmp_path_factory.mktemp("comfyui"), checkpoint) as host:
        yield host


@pytest.fixture(scope="module")
def sdxl(host: Host, sdxl_checkpoint: Path) -> Iterator[Host]:
    """`host`, with the SDXL checkpoint and a small encoder of SDXL's widths."""
    checkpoint, encoder = host.base / "models" / "checkpoints" / graphs.SDXL_CHECKPOINT, host.encoders
    checkpoint.symlink_to(sdxl_checkpoint)
    fmt.save(small.sdxl_artifact((768, 1280), pooled=1280), encoder / graphs.SDXL_ENCODER)
    yield host
    checkpoint.unlink()
    (encoder / graphs.SDXL_ENCODER).unlink()
