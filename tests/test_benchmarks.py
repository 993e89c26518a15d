"""Every benchmark runs, at tiny shapes and for one round: no figure is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.encoders import encoders
from benchmarks.texts import LENGTHS, captions
from painter.host import QUIET, ROOT, comfyui
from trainer.corpus.pairs import read_pairs
from trainer.models.teacher import caption_length, load_tokenizer
from trainer.models.tokenizer import load_tokens


def run(name: str, *given: object) -> str:
    """The output of a benchmark."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, given)]
    env = {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("train_step", ["unfreeze, a step of 8"]),
        pytest.param("train_step --strategy lora", ["lora, a step of 8"], marks=pytest.mark.slow),
        pytest.param("train_step --sdxl", ["unfreeze, a step of 8"], marks=pytest.mark.slow),
        pytest.param("encode", ["first after loading", "3 weighted spans", "3 windows"], marks=pytest.mark.slow),
        pytest.param("load", ["fp16 file, to read and copy"], marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_times_both(name: str, cases: list[str], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    name, *flags = name.split()
    host = ["--comfyui", comfyui()] if name in ("encode", "load") else []
    lines = run(name, "--quick", "--json", figures, *flags, *host).splitlines()
    assert all(any(line.startswith(case) for line in lines) for case in cases), lines
    races = json.loads(figures.read_text(encoding="utf-8"))["cases"]
    assert all(measured["plain_s"] > 0 and measured["ours_s"] > 0 for measured in races.values())


def test_captions_are_as_long_as_they_should_be(tmp_path: Path) -> None:
    """On the Chinese side, which is the longer one, start and end included; and all differ."""
    student, teacher = encoders(tmp_path, 1, 64)
    pairs = read_pairs(Path(captions(tmp_path / "pairs.tsv", 40)))
    length, english = load_tokens(student, 77).length, load_tokenizer(teacher, teacher)
    assert [length(pair.zh) for pair in pairs] == [*LENGTHS, *LENGTHS]
    assert all(caption_length(english, pair.en) <= length(pair.zh) for pair in pairs)
    assert len({pair.zh for pair in pairs}) == len({pair.en for pair in pairs}) == 40
