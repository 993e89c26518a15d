"""The benchmarks run, at tiny shapes and for one round: no figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import encoders
from tests.host import QUIET, ROOT, comfyui


@pytest.mark.parametrize("name", ["encode", "load"])
def test_it_prints_a_table_and_writes_its_figures(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", str(figures)]
    done = subprocess.run(
        [*command, "--comfyui", str(comfyui())],
        env={**os.environ, **QUIET},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["plain_s"])
    lines = done.stdout.splitlines()
    for case, figure in found["cases"].items():
        if isinstance(figure, dict) and "ratio" in figure:
            assert any(line.startswith(case) and f"{figure['ratio']:.2f}" in line for line in lines), case


@pytest.mark.parametrize(
    "given",
    [
        ["train_step", "--strategy", "unfreeze"],
        ["train_step", "--strategy", "lora"],
        ["cache"],
        ["attention"],
        ["products"],
        pytest.param(["allocator"], marks=pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")),
    ],
)
def test_the_trainer_runs_beside_the_plain_way(given: list[str], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    name, *flags = given
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", str(figures)]
    done = subprocess.run(
        [*command, *flags],
        env={**os.environ, **QUIET},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["plain_s"])
    assert f"{found['ratio']:.2f}" in done.stdout


def test_the_whole_way_runs_beside_the_plain_loop(tmp_path: Path) -> None:
    train, dev = encoders.corpora(tmp_path)
    models = ["--student", encoders.student(tmp_path / "student"), "--teacher", encoders.clip_teacher(tmp_path / "t")]
    pairs = ["--train", train, "--dev", dev, "--window", "32", "--limit", "0", "--json", tmp_path / "figures.json"]
    command = [sys.executable, ROOT / "benchmarks" / "end_to_end.py", tmp_path / "run", *models, *pairs]
    done = subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["plain_s"]) and found["plain"][0][0] == 100
    assert (tmp_path / "run" / "encoder.safetensors").is_file() and f"skill {found['skill']:.3f}" in done.stdout
