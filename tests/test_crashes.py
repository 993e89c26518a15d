"""Every stage stopped at random moments, and on a full disk: the same end, or one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="both fork a process that torch is loaded in")


def table(module: str, *arguments: str) -> list[list[str]]:
    """The rows of the table that a module of the tests prints; it fails when anything was lost."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.slow
def test_every_stage_killed_at_random_moments_ends_in_the_same_bytes() -> None:
    # All stages, 20 times each: docs/results.md. Here a few, for a kill and the end of its run take seconds.
    stages = ["corpus", "cache", "train", "export"]
    rows = table("tests.crashes", "--kills", "2", "--stages", *stages)
    assert [row[0] for row in rows] == [*stages, "all"]
    assert all(kills == identical == "2" for _, _, kills, _, identical in rows[:-1])
    assert int(rows[-1][3]) >= len(stages)


@pytest.mark.slow
def test_the_whole_command_killed_while_it_downloads_and_behind_that_ends_in_the_same_bytes() -> None:
    # Ten times: docs/results.md.
    (row, _) = table("tests.crashes", "--command", "3")
    assert row[2:] == ["3", "3", "3"]


@pytest.mark.slow
def test_ctrl_c_once_or_twice_and_sigterm_say_where_the_run_goes_on() -> None:
    rows = table("tests.crashes", "--kills", "3", "--polite", "--stages", "train")
    assert [(row[0], row[2], row[4]) for row in rows] == [("train", "3", "3"), ("all", "3", "3")]


@pytest.mark.parametrize(
    "given",
    [
        ["cache", "--limit"],
        pytest.param(["train", "--limit"], marks=pytest.mark.slow),
        pytest.param(["train"], marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_said_and_loses_nothing(given: list[str]) -> None:
    rows = table("tests.full_disk", "--stages", *given)
    assert len(rows) >= 2
    assert any("give the same command again: it goes on where it stopped" in row[2] for row in rows)
