"""What a stage frees is kept for its next tensor, where the C library is glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import QUIET, ROOT
from tests.runs import TINY, inputs

# 40 MB: glibc gives so much a mapping of its own whatever was freed before, unless told otherwise.
COUNT = """
import resource
import sys

import torch

from trainer.__main__ import main


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


before = faults()
code = main(sys.argv[1:])
torch.ones(10_000_000)
print(before, faults())
sys.exit(code)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc: its malloc is left as it is")
def test_the_system_hands_out_no_page_twice(tmp_path: Path) -> None:
    flags = [text for pair in inputs(tmp_path).items() for text in pair]
    command = [sys.executable, "-c", COUNT, "corpus", "--config", TINY, "--run", str(tmp_path / "run"), *flags]
    env = {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert after < before / 10, (before, after)
