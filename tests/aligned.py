"""Encoders that the trainer aligned by its command line: a small ChineseCLIP to CLIP pair, and a real BERT pair."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from painter.host import QUIET, ROOT
from tests import encoders

MODELS = ROOT / ".cache" / "models"


def python(*arguments: str | Path) -> None:
    """Run a module of this repository and fail with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def align(folder: Path, student: Path, teacher: Path, window: int, rows: int) -> Path:
    """`python -m trainer run` with the tests' recipe; returns the artifact."""
    train, dev = encoders.corpora(folder, rows)
    flags = {
        "config": ROOT / "recipes" / "tiny.yaml",
        "run": folder / "run",
        "student.model": student,
        "teacher.model": teacher,
        "corpus.train": train,
        "corpus.dev": dev,
        "window": window,
    }
    python("trainer", "run", *(str(part) for name, value in flags.items() for part in (f"--{name}", value)))
    return folder / "run" / "encoder.safetensors"


@pytest.fixture(scope="session")
def clip_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a small ChineseCLIP (64 wide) aligned to a small CLIP of SD1.5's width, over 77 positions."""
    folder = tmp_path_factory.mktemp("clip-pair")
    student = encoders.student(folder / "student", width=64)
    return align(folder, student, encoders.clip_teacher(folder / "teacher", width=768), window=77, rows=100)


@pytest.fixture(scope="session")
def bert_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of multilingual-e5-small aligned to all-MiniLM-L6-v2, over 32 positions."""
    python("painter.real_pair", MODELS)
    folder = tmp_path_factory.mktemp("bert-pair")
    return align(folder, MODELS / "e5-small", MODELS / "minilm-l6", window=32, rows=60)
