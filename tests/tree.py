"""The repository as git sees it, and its programs as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KILLED = 1 if sys.platform == "win32" else -9  # how a process ends that `kill` ended


def tracked(suffix: str = "") -> list[str]:
    """Tracked files that exist, as paths from the root with forward slashes, in git's order."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listing.split("\0") if name.endswith(suffix) and name and (ROOT / name).is_file()]


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with these arguments; stdout and stderr come back as one text."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "DO_NOT_TRACK": "1", "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def trainer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m trainer` as a user does; stdout and stderr come back apart."""
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def killed_at(sign: Path, *arguments: str) -> bool:
    """Start `python -m trainer` and kill it as soon as a file is there; whether that was what ended it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments], cwd=ROOT, stdout=quiet, stderr=quiet)
    while process.poll() is None and not sign.exists():
        time.sleep(0.001)
    process.kill()
    return process.wait() == KILLED
