"""Every benchmark runs, at tiny shapes and for one round: no figure is looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.inputs import LENGTHS, captions, encoders
from painter.host import ROOT
from trainer.corpus.pairs import read_pairs
from trainer.models.teacher import caption_length, teacher_tokenizer
from trainer.models.tokenizer import student_tokenizer


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("train_step --quick", ["unfreeze, a step of 8"]),
        pytest.param("train_step --quick --strategy lora", ["lora, a step of 8"], marks=pytest.mark.slow),
        pytest.param("train_step --quick --sdxl", ["unfreeze, a step of 8"], marks=pytest.mark.slow),
        pytest.param("nodes --quick", ["3 weighted spans", "fp16 file, to read and copy"], marks=pytest.mark.slow),
        pytest.param("nodes --quick --sdxl", ["no weights"], marks=pytest.mark.slow),
        pytest.param(
            "gpu --device cpu", ["| step of 16, torch.float32", "| loss after 200", "| resumed"], marks=pytest.mark.slow
        ),
        pytest.param("gpu --device cpu --sdxl", ["| step of 16, torch.float32 "], marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_runs(command: str, lines: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *f"benchmarks.{command}".split()],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for start in lines:
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(start))
        assert re.search(r" ms|on the CPU|largest difference", line), line


def test_captions_are_as_long_as_they_should_be(tmp_path: Path) -> None:
    """On the Chinese side, which is the longer one, start and end included; and all differ."""
    student, teacher = encoders(tmp_path, 1, 64)
    pairs = read_pairs(Path(captions(tmp_path / "pairs.tsv", 40)))
    length, english = student_tokenizer(student, 77).length, teacher_tokenizer(teacher, teacher)
    assert [length(pair.zh) for pair in pairs] == [*LENGTHS, *LENGTHS]
    assert all(caption_length(english, pair.en) <= length(pair.zh) for pair in pairs)
    assert len({pair.zh for pair in pairs}) == len({pair.en for pair in pairs}) == 40
