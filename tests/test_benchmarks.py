"""The benchmarks run, at tiny shapes and for one round: no figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("strategy", ["unfreeze", "lora"])
def test_a_step_runs_beside_the_plain_loop(strategy: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "train_step.py"), "--quick", "--json", str(figures)]
    done = subprocess.run(
        [*command, "--strategy", strategy],
        env={**os.environ, **QUIET},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["plain_s"])
    assert f"{found['ratio']:.2f}" in done.stdout
