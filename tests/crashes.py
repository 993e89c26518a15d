"""Kill every stage of the trainer at random moments, run it again, and compare what it made with an unbroken run's.

python -m tests.crashes --kills 20 [--stages cache train] [--fresh 3] [--polite]
python -m tests.crashes --command 10

A fresh process spends seconds on imports, in which a kill hits nothing. So this process imports everything once, and
each run is a fork of it, killed with SIGKILL at a moment drawn evenly from the stage's own duration. `--fresh` adds
real processes, killed between their start and end. `--polite` sends Ctrl-C once, Ctrl-C twice and SIGTERM in turn
instead, which a stage must answer in one line. `--command` kills the whole command alone, in fresh processes, with both
encoders still on a stand-in of the hub, at moments spread over its time and over its downloads in turn. Prints a table;
exit code 1 when any end differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

# A forked child inherits no threads; with one thread there are none to miss.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch
from safetensors.torch import load_file, save_file

from tests import encoders, hub, translators
from tests.runs import contents
from trainer.__main__ import main
from trainer.models.load import TEXT

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "model.safetensors"
STAGES = ("corpus", "cache", "train", "evaluate", "export", "publish", "run", "translate", "convert")
POLITE: list[tuple[int, ...]] = [(signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)]


@dataclass
class Row:
    """What became of the kills of one stage."""

    stage: str
    seconds: float
    kills: int = 0
    hits: int = 0
    identical: int = 0

    def __str__(self) -> str:
        return f"| {self.stage} | {self.seconds:.2f} | {self.kills} | {self.hits} | {self.identical} |"


def inputs(folder: Path, stages: list[str]) -> dict[str, list[str]]:
    """Small encoders and corpora for these stages and those before them, and the arguments of each. Outputs are
    relative to the folder of a run."""
    student, teacher = encoders.student(folder / "student"), encoders.clip_teacher(folder / "teacher")
    train, dev = encoders.corpora(folder)
    marian = translators.marian(folder / "marian", steps=80) if "translate" in stages else None
    english = [line.split("\t")[1] for line in dev.read_text(encoding="utf-8").splitlines()]
    (folder / "english.tsv").write_text("\n".join(english) + "\n", encoding="utf-8")
    recipe = ["--config", str(ROOT / "recipes" / "tiny.yaml"), "--window", "32", "--run", "run"]
    recipe += ["--train.lr", "1e-4"]  # small enough for an encoder that `publish` takes for aligned
    models = ["--student.model", str(student), "--teacher.model", str(teacher)]
    corpora = ["--corpus.train", str(train), "--corpus.dev", str(dev)]
    lora = ["--run", "lora", "--train.strategy", "lora", "--train.lora.r", "4"]
    translate = {"source": folder / "english.tsv", "out": "pairs.tsv", "model": marian, "max_tokens": 40}
    translate |= {"batch": 4, "shard_rows": 4, "beams": 1}
    arguments = {stage: [stage, *recipe, *models, *corpora] for stage in STAGES[:5]}
    arguments["evaluate"] = ["evaluate", "--run", "run"]
    arguments["publish"] = ["publish", "--run", "run", "--repo", "nobody/encoder"]
    arguments["run"] = ["run", *recipe, *models, *corpora, *lora]
    settings = (text for name, value in translate.items() for text in (f"--translate.{name}", str(value)))
    arguments["translate"] = ["translate", *settings]
    arguments["convert"] = ["convert", "--source", str(student), "--out", "models/encoder.safetensors"]
    last = max(STAGES.index(stage) for stage in stages)
    return {stage: arguments[stage] for stage in STAGES[: last + 1] if stage in stages or stage != "translate"}


def start(arguments: list[str], folder: Path, fresh: bool = False, log: Path | None = None) -> int:
    """Begin a run of the trainer in `folder`; its process id."""
    output = os.open(log or folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if fresh:
            command = [sys.executable, "-m", "trainer", *arguments]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment).pid
        if child := os.fork():
            return child
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as before the imports of a fresh process
            os.setsid()
            os.chdir(folder)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)  # never back into this program
    finally:
        os.close(output)


def runs(process: int) -> bool:
    """Whether a process has not ended."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def ended(process: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def whole(arguments: list[str], folder: Path, fresh: bool = False) -> float:
    """An unbroken run; its seconds."""
    began = time.monotonic()
    code = ended(start(arguments, folder, fresh))
    if code:
        log = folder.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"{' '.join(arguments[:1])} ended with {code}:\n{log[-3000:]}")
    return time.monotonic() - began


def unbroken(folder: Path, stages: list[str]) -> Iterator[tuple[str, list[str], Path, Path, float]]:
    """Each stage, run in `folder` after those before it: its name, its arguments, the folders before and after it, and
    the seconds that it took."""
    (folder / "inputs").mkdir()
    before = folder / "empty"
    before.mkdir()
    for stage, given in inputs(folder / "inputs", stages).items():
        after = folder / stage
        shutil.copytree(before, after)
        yield stage, given, before, after, whole(given, after)
        before = after


def unlike(folder: Path, unbroken: Path) -> list[str]:
    """Names of the files that differ, or that only one side has."""
    found, wanted = contents(folder), contents(unbroken)
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


def stop(process: int, signals: tuple[int, ...], log: Path) -> bool:
    """Send the signals to a running stage; whether that ended it. A polite one must be answered in one line."""
    for number in signals:
        os.kill(process, number)
    code = ended(process)
    if code == 0 or signals == (signal.SIGKILL,):
        return code != 0
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    in_words = code == 128 + signals[0] and "stopped; the same command goes on" in said[-1]
    # A second Ctrl-C ends the process at once, as the first does before its work begins and after it has ended.
    if "Traceback" in "".join(said) or not (in_words or code == -signals[0]):
        raise SystemExit(f"ended with {code}:\n" + "\n".join(said[-30:]))
    return True


def crash(
    stage: str,
    arguments: list[str],
    before: Path,
    after: Path,
    kills: list[tuple[int, ...]],
    seconds: float | None,
    seed: int,
    even: bool = False,
) -> Row:
    """Stop a stage by each of `kills`, each time from `before`, and compare the ends with `after`.

    `seconds`: how long `after` took; None: kill fresh processes. `even`: spread evenly, and every second kill over the
    bytes of the downloads, not over the time; with a line about each.
    """
    fresh = seconds is None
    folder = after.with_name(f"{stage}-killed")
    chance = random.Random(f"{seed} {stage}")
    shutil.copytree(before, folder)
    again = whole(arguments, folder, fresh)
    row = Row(f"{stage}, fresh process" if fresh else stage, min(again, seconds or again))
    for number, signals in enumerate(kills):
        share, log = (number + chance.random()) / len(kills) if even else chance.random(), folder.with_suffix(".log")
        while True:
            shutil.rmtree(folder)
            shutil.copytree(before, folder)
            moment = share * row.seconds
            log.unlink()
            process = start(arguments, folder, fresh)
            if even and number % 2:
                while runs(process) and fetched(folder) < share * fetched(after):
                    time.sleep(0.005)
            else:
                time.sleep(moment)
            hit = stop(process, signals, log)
            if hit or not even:
                break
            share /= 2  # it was over: the machine is faster than in the unbroken run
        row.kills += 1
        row.hits += hit
        if even:
            said = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-60:]
            print(
                f"killed with {fetched(folder):,} of {fetched(after):,} bytes downloaded: ... {said}", file=sys.stderr
            )
        whole(arguments, folder, fresh)
        different = unlike(folder, after)
        row.identical += not different
        if different:
            print(f"{stage}, killed after {moment:.3f} s: {', '.join(different)}", file=sys.stderr)
    shutil.rmtree(folder)
    return row


def crashes(stages: list[str], kills: list[tuple[int, ...]], fresh: int = 0, seed: int = 0) -> Iterator[Row]:
    """The rows of the table, one after another. A stage begins from what those before it in STAGES left unbroken."""
    with tempfile.TemporaryDirectory() as temporary:
        for stage, given, before, after, seconds in unbroken(Path(temporary), stages):
            if stage in stages:
                yield crash(stage, given, before, after, kills, seconds, seed)
            if stage == "run" and stage in stages and fresh:
                yield crash(stage, given, before, after, kills[:fresh], None, seed)


def fetched(folder: Path) -> int:
    """Bytes of weights that the whole command has downloaded, finished or not."""
    return sum(path.stat().st_size for path in folder.rglob(f"{TEXT}*") if path.is_file())


def command(kills: int, seed: int = 0) -> Iterator[Row]:
    """The whole command, killed so often, with its two encoders on a stand-in of the hub that takes its time. The hub's
    cache lies in the run's folder, and is compared with it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repositories, before = folder / "hub" / "someone", folder / "before"
        student = encoders.student(repositories / "chinese", size=9000) / WEIGHTS
        teacher = encoders.clip_teacher(repositories / "clip", size=9000) / WEIGHTS
        encoders.relayout(teacher, "text_model.")
        for file in (student, teacher):  # a picture tower, which is not fetched
            save_file(load_file(file) | {"vision_model.more": torch.zeros(10**6)}, file)
        train, dev = encoders.corpora(folder)
        (before / "ComfyUI" / "models").mkdir(parents=True)
        given = ["run", "--config", str(ROOT / "recipes" / "tiny.yaml"), "--window", "32", "--install", "ComfyUI"]
        given += ["--student.model", "someone/chinese", "--teacher.model", "someone/clip"]
        given += ["--corpus.train", str(train), "--corpus.dev", str(dev)]
        with hub.serve(folder / "hub", pace=0.1) as (endpoint, _):
            os.environ.update(hub.settings(endpoint, Path("home")))
            shutil.copytree(before, folder / "after")
            whole(given, folder / "after", fresh=True)
            yield crash("the command", given, before, folder / "after", [(signal.SIGKILL,)] * kills, None, seed, True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--fresh", type=int, default=0)
    parser.add_argument("--polite", action="store_true")
    parser.add_argument("--command", type=int, default=0, metavar="KILLS")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    kinds = POLITE if asked.polite else [(signal.SIGKILL,)]
    total = Row("all", 0.0)
    print("| stage | seconds unbroken | kills | while it ran | identical ends |\n|---|---|---|---|---|")
    stages = crashes(asked.stages, list(islice(cycle(kinds), asked.kills)), asked.fresh, asked.seed)
    for row in command(asked.command, asked.seed) if asked.command else stages:
        print(row, flush=True)
        for name in ("seconds", "kills", "hits", "identical"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
    print(total)
    sys.exit(total.identical < total.kills)
