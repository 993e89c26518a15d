"""Small runs of the real trainer, in this process."""

from __future__ import annotations

from pathlib import Path

from tests import encoders
from trainer.__main__ import main

TINY = str(Path(__file__).resolve().parent.parent / "recipes" / "tiny.yaml")


def inputs(folder: Path) -> dict[str, str]:
    """A small ChineseCLIP, a small CLIP and a corpus in `folder`, by flag."""
    train, dev = encoders.corpora(folder)
    return {
        "--student.model": str(encoders.student(folder / "student")),
        "--teacher.model": str(encoders.clip_teacher(folder / "teacher")),
        "--corpus.train": str(train),
        "--corpus.dev": str(dev),
    }


def flags(given: dict[str, str]) -> list[str]:
    """`inputs` as a command line has them."""
    return [text for pair in given.items() for text in pair]


def run(folder: Path, given: dict[str, str], *more: str) -> Path:
    """All stages of a run in `folder`, by the tiny recipe in windows of 32."""
    assert main(arguments(folder, given, *more)) == 0
    return folder


def arguments(folder: Path, given: dict[str, str], *more: str) -> list[str]:
    """The command line of `run`."""
    return ["run", "--config", TINY, "--run", str(folder), "--window", "32", *flags(given), *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder by name, without locks and the plan's seconds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", "plan.json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
