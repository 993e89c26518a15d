"""Runs that are killed, stopped, cancelled or out of disk: the same end after the next call, and one line meanwhile."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trainer
from tests import runs
from tests.tree import ROOT, python
from tests.tree import trainer as command
from trainer.base.settings import parse_recipe
from trainer.progress import Cancelled, Progress

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="by signals, forks and limits of a file's size")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Flags that name small encoders and a corpus."""
    return runs.inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an unbroken run."""
    return contents(runs.run(tmp_path_factory.mktemp("finished") / "run", inputs))


def contents(folder: Path) -> dict[str, bytes]:
    """A run's files but its recipe, which names the folder."""
    return {name: text for name, text in runs.contents(folder).items() if name != "recipe.yaml"}


@pytest.mark.parametrize("kills", ["3", pytest.param("20", marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(kills: str) -> None:
    done = python("-m", "tests.crashes", kills)
    assert done.returncode == 0, done.stdout


def test_ctrl_c_is_answered_in_one_line_and_the_same_command_continues(
    inputs: dict[str, str], finished: dict[str, bytes], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = [sys.executable, "-m", "trainer", *runs.arguments(run, inputs)]
    process = subprocess.Popen(given, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    while process.poll() is None and not (run / "checkpoints" / "step-000004.safetensors").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "run: stopped" in said
    assert contents(runs.run(run, inputs)) == finished


def test_a_full_disk_is_one_line_and_loses_nothing(
    inputs: dict[str, str], finished: dict[str, bytes], tmp_path: Path
) -> None:
    """The system's limit on the size of a file stands in for a full disk."""
    run = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, limits[1]))
    try:
        done = command(*runs.arguments(run, inputs))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"run: {run}/" in done.stderr
    left = contents(run)
    steps = left.pop("metrics.jsonl", b"")
    assert finished["metrics.jsonl"].startswith(steps)
    assert all(text == finished[name] for name, text in left.items() if name in finished)
    assert contents(runs.run(run, inputs)) == finished


@pytest.mark.parametrize("stage", ["run", "cache train"])
def test_another_program_runs_the_trainer_cancels_it_and_continues(
    stage: str, inputs: dict[str, str], finished: dict[str, bytes], tmp_path: Path
) -> None:
    recipe = parse_recipe(Path(runs.TINY))
    recipe.run, recipe.window = str(tmp_path / "run"), 32
    recipe.student.model, recipe.teacher.model, recipe.corpus.train, recipe.corpus.dev = inputs.values()
    events: list[Progress] = []

    def cancel(event: Progress) -> None:
        if event.stage == stage and event.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        trainer.run(recipe, cancel)
    assert not (recipe.folder / "encoder.safetensors").exists()
    trainer.run(recipe, events.append)
    assert contents(recipe.folder) == finished
    assert "run" in {event.stage for event in events}
    assert all(0 <= event.done <= event.total for event in events)
