"""Align encoders to the painter's teacher by the project's own trainer, each in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from painter.unet import WINDOW

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
STEPS = 1400


class Material(NamedTuple):
    """What every alignment of a demonstration shares."""

    student: Path
    teacher: Path
    train: Path
    dev: Path
    words: Path
    cache: Path


def align(material: Material, run: Path, recipe: str, *options: str) -> Path:
    """Run the trainer's five stages by recipes/<recipe>.yaml, with more options; returns the artifact.

    What a run has finished is not done again. RuntimeError when the trainer fails; it has printed why.
    """
    command = ["run", "--config", str(ROOT / "recipes" / f"{recipe}.yaml"), "--run", str(run), "--window", str(WINDOW)]
    command += ["--student.model", str(material.student), "--teacher.model", str(material.teacher)]
    command += ["--corpus.train", str(material.train), "--corpus.dev", str(material.dev)]
    # 40 positions hold too little padding for leaving some out to pay.
    command += ["--cache.dir", str(material.cache), "--train.pad_positions", "null"]
    trainer(*command, *options)
    return run / "encoder.safetensors"


def score_words(material: Material, artifact: Path) -> None:
    """Score an artifact on the captions with held-out words; the report is printed and lies beside it as words.json."""
    report = str(artifact.with_name("words.json"))
    given = ["--teacher.model", str(material.teacher), "--corpus", str(material.words), "--report", report]
    trainer("evaluate", "--artifact", str(artifact), *given)


def trainer(*arguments: str) -> None:
    """Run the trainer in a process of its own. RuntimeError when it fails; it has printed why."""
    command = [sys.executable, "-m", "trainer", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise RuntimeError(f"The trainer stopped (see above). The command was:\n{' '.join(command)}")


def chosen(material: Material, run: Path, recipe: str) -> Path:
    """The encoder of a recipe, but for the demonstration's batch and steps."""
    descent = () if recipe == "ridge" else ("--train.batch", str(BATCH), "--train.steps", str(STEPS))
    return align(material, run, recipe, *descent)


def untouched(material: Material, run: Path, start: str) -> Path:
    """No step of descent: the student as it is (`student`) or with the closed-form map after it (`ridge`)."""
    # By a recipe that stores what the upper layers read, so that the cache of the recommended recipe serves again.
    options = ("--train.strategy", "unfreeze", "--train.start", start, "--train.steps", "0")
    return align(material, run, "recommended", *options)
