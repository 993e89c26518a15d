"""Hostile files, prompts, requests, corpora and recipes by the thousand: each is taken, or refused in one sentence.

python -m tests.fuzzer [--files 5000] [--prompts 5000] [--requests 1000] [--corpora 1000] [--recipes 1000] [--seed N]
                       [--json FILE] [--keep]

Nothing may take more than a second of CPU, nor more memory than its own size and 128 MB (tests/fuzz_child.py). Prints a
table, and each fault with its case; exit code 1 when there is one. --keep adds the cases to tests/data/fuzzed.json,
which the tests try again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz_cases import DATA, KINDS, ODD, draw
from tests.host import QUIET, ROOT, comfyui

KEPT = DATA / "fuzzed.json"
LONG = {"files": 5000, "prompts": 5000, "requests": 1000, "corpora": 1000, "recipes": 1000}
PATIENCE = 300  # seconds without a word, after which a case hangs
Job = tuple[str, int, Any]  # kind, number, case


@dataclass
class Row:
    """What became of the cases of a kind."""

    kind: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    largest_mb: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)
    said: dict[str, int] = field(default_factory=dict)  # how refusals begin

    def add(self, number: int, case: Any, outcome: dict[str, Any]) -> None:
        """Count an outcome."""
        self.cases += 1
        self.slowest_ms = max(self.slowest_ms, round(1e3 * outcome["cpu"], 1))
        self.largest_mb = max(self.largest_mb, round(outcome["memory"], 1))
        if outcome["fault"]:
            self.faults.append({"number": number, "case": case, "fault": outcome["fault"]})
        elif outcome["refused"]:
            self.refused += 1
            words = re.sub(r"\S*/\S*|\d+", "#", outcome["refused"])[:60]
            self.said[words] = self.said.get(words, 0) + 1
        else:
            self.accepted += 1


def kept() -> Iterator[Job]:
    """The cases that were found before, numbered below 0."""
    for kind, cases in json.loads(KEPT.read_text(encoding="utf-8")).items():
        yield from ((kind, -1 - at, case) for at, case in enumerate(cases))


def every(counts: dict[str, int], seed: int) -> list[Job]:
    """So many drawn cases of each kind, behind those that were found before and the prompts that someone typed."""
    odd = (("prompts", -1000 - at, text) for at, text in enumerate(ODD))
    first = [job for job in (*kept(), *odd) if counts[job[0]]]
    return first + [(kind, at, draw(kind, seed, at)) for kind, count in counts.items() for at in range(count)]


def tried(jobs: Iterable[Job]) -> dict[str, Row]:
    """Every job by a child process, and by another one behind the case that ended it."""
    left = list(jobs)
    rows = {kind: Row(kind) for kind, _, _ in left}
    with tempfile.TemporaryDirectory() as temporary:
        for start in range(len(left) + 1):
            if not left:
                break
            folder = Path(temporary) / str(start)
            folder.mkdir()
            done, ending = _child(left, folder, rows)
            left = left[done:]
            if left:
                kind, number, case = left.pop(0)
                rows[kind].add(number, case, {"cpu": 0.0, "memory": 0.0, "refused": "", "fault": ending})
    return rows


def _child(jobs: list[Job], folder: Path, rows: dict[str, Row]) -> tuple[int, str]:
    """How many jobs a child process did, and how a case ended it, or nothing."""
    env = {**os.environ, **QUIET, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hub")}
    env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONFAULTHANDLER": "1"}
    log = folder / "log.txt"
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "tests.fuzz_child", str(folder), str(comfyui())]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=errors)
        assert process.stdin and process.stdout
        process.stdin.write("".join(json.dumps(job) + "\n" for job in jobs).encode())
        process.stdin.close()
        lines = _lines(process)
        ready, done = next(lines, ""), 0
        for line in lines if ready else ():
            kind, number, case = jobs[done]
            assert json.loads(line) == [kind, number], line
            outcome = next(lines, "")
            if not outcome:
                break
            rows[kind].add(number, case, json.loads(outcome))
            done += 1
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is silent, and has not ended
            code = process.wait(60)
        process.kill()
        process.wait()
    tail = log.read_text(encoding="utf-8", errors="replace")
    assert ready, f"good inputs fail:\n{tail[-6000:]}"
    if done == len(jobs):
        return done, ""
    return done, f"no end in {PATIENCE} s" if code is None else f"the process ended with {code}: {tail[-300:]}"


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines of a process, until it ends or is silent for too long."""
    assert process.stdout
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(PATIENCE):
            some = os.read(process.stdout.fileno(), 1 << 16)
            if not some:
                return
            *whole, rest = (rest + some).split(b"\n")
            yield from (line.decode() for line in whole)


def table(rows: dict[str, Row]) -> str:
    """As Markdown."""
    out = ["| kind | cases | accepted | refused | faults | slowest, CPU ms | largest growth, MB |", "|---" * 7 + "|"]
    for r in rows.values():
        out.append(
            f"| {r.kind} | {r.cases} | {r.accepted} | {r.refused} | {len(r.faults)} | {r.slowest_ms:.0f} "
            f"| {r.largest_mb:.0f} |"
        )
    return "\n".join(out)


def faults(rows: dict[str, Row]) -> str:
    """Each with its case."""
    return "\n".join(
        f"{row.kind} {found['number']}: {found['fault']}\n  {json.dumps(found['case'])[:600]}"
        for row in rows.values()
        for found in row.faults
    )


def keep(rows: dict[str, Row]) -> None:
    """Add the cases with a fault to those that the tests try."""
    known = json.loads(KEPT.read_text(encoding="utf-8"))
    for row in rows.values():
        cases = known.setdefault(row.kind, [])
        cases += [found["case"] for found in row.faults if found["case"] not in cases]
    lines = [
        f'"{kind}": [\n{",".join(f"{chr(10)} {json.dumps(case)}" for case in cases)[1:]}\n]'
        for kind, cases in known.items()
    ]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=LONG[kind])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    rows = tried(every({kind: getattr(given, kind) for kind in KINDS}, given.seed))
    spent = os.times()
    cpu = spent.children_user + spent.children_system
    print(f"seed {given.seed}, {cpu:.0f} s of CPU\n{table(rows)}\n{faults(rows)}")
    if given.json:
        given.json.write_text(
            json.dumps({"seed": given.seed, "rows": [asdict(row) for row in rows.values()]}, indent=1)
        )
    if given.keep:
        keep(rows)
    return any(row.faults for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
