"""Kill a run at random moments, run it again, and compare its files with an unbroken run's: python -m tests.crashes 20

A fresh process spends seconds on imports, in which a kill hits nothing. So this process imports everything once, and
each run is a fork of it, killed with SIGKILL. Exit code 1 when a file differs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

# A forked child inherits no threads; with one thread there are none to miss.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import peft  # noqa: F401 - before the forks

import trainer.pipeline  # noqa: F401
from tests import runs
from trainer.__main__ import main


def start(arguments: list[str], folder: Path) -> int:
    """Begin a run of the trainer in a new folder, or go on in one; its process id."""
    folder.mkdir(exist_ok=True)
    if child := os.fork():
        return child
    code = 70
    try:
        os.chdir(folder)
        output = os.open("../log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)  # never back into this program


def wait(process: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def crash(kills: int, temporary: Path) -> tuple[int, int]:
    """How many kills hit a run before its end, and how many runs ended in the same bytes."""
    strategy = ["--train.strategy", "lora", "--train.lora.r", "4"]
    arguments = ["run", "--config", runs.TINY, "--window", "32", "--run", "run", *strategy]
    arguments += runs.flags(runs.inputs(temporary))
    whole, killed, hits, good = temporary / "whole", temporary / "killed", 0, 0
    began = time.monotonic()
    assert wait(start(arguments, whole)) == 0, (temporary / "log").read_text(encoding="utf-8")[-3000:]
    seconds, expected = time.monotonic() - began, runs.contents(whole)
    for number in range(kills):
        moment = (number + random.Random(number).random()) / kills * seconds
        process = start(arguments, killed)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        hit = wait(process) == -signal.SIGKILL
        hits += hit
        seconds = seconds if hit else moment  # other programs slowed the unbroken run
        assert wait(start(arguments, killed)) == 0, (temporary / "log").read_text(encoding="utf-8")[-3000:]
        files = runs.contents(killed)
        differ = [name for name in sorted({*files, *expected}) if files.get(name) != expected.get(name)]
        print(f"killed after {moment:.2f} of {seconds:.2f} s: {differ or 'the same'}", file=sys.stderr)
        good += not differ
        shutil.rmtree(killed)
    return hits, good


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        kills = int(sys.argv[1])
        hits, good = crash(kills, Path(folder))
    print(f"{kills} kills, {hits} before the end, {good} ended in the same bytes")
    sys.exit(good < kills or hits < kills / 2)
