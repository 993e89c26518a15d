"""Let the disk run full in every stage of the trainer: one sentence, no half file, and after room is made the same end.

python -m tests.full_disk [--stages cache train] [--limit]

The disk is a small tmpfs where this process may mount one. Elsewhere, and with --limit, the system's limit on the size
of a file stands in for it. Prints a table; exit code 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crashes import STAGES, ended, start, unbroken, unlike, whole
from tests.runs import contents

SHARES = (0.0, 0.3, 0.8)  # of what a stage writes: how much of it still fits
LIMITS = (30_000, 90_000)  # bytes a file; the log of a run is a file as well, and shorter
SAID = ("the disk is full", "the system allows no larger file")


@dataclass
class Row:
    """What became of a stage that had no room."""

    stage: str
    room: int
    said: str = ""
    traceback: bool = False
    half: int = 0
    identical: bool = False

    @property
    def good(self) -> bool:
        """A sentence, or room enough; nothing lost either way."""
        return not self.traceback and not self.half and self.identical


@contextmanager
def disk(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """Mount a tmpfs at `folder` for as long as the block lasts; False where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def starve(row: Row, arguments: list[str], before: Path, after: Path, place: Path, limit: bool) -> None:
    """Run a stage with `row.room` bytes, then again with room enough, and fill in the row."""
    folder, filler = place / row.stage, place / "filler"
    shutil.copytree(before, folder)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (row.room, unlimited[1]))
    else:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - row.room)
    log = after.with_suffix(".full.log")
    log.unlink(missing_ok=True)
    code = ended(start(arguments, folder, log=log))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    filler.unlink(missing_ok=True)
    written = log.read_text(encoding="utf-8", errors="replace")
    row.traceback = "Traceback" in written or code not in (0, 1)
    row.said = written.strip().splitlines()[-1] if code else "(it fitted)"
    if code and not any(words in row.said for words in SAID):
        row.traceback = True
    good = [contents(before), contents(after)]
    found = {name: text for name, text in contents(folder).items() if name in good[1] or name in good[0]}
    row.half = sum(text not in [some.get(name) for some in good] for name, text in found.items())
    whole(arguments, folder)
    row.identical = not unlike(folder, after)
    shutil.rmtree(folder)


def size(folder: Path) -> int:
    """Bytes of all files, in pages as a tmpfs counts them."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def rows(stages: list[str], limit: bool) -> Iterator[Row]:
    """Every stage with several amounts of room."""
    with tempfile.TemporaryDirectory() as temporary, disk(Path(temporary) / "disk") as mounted:
        for stage, given, before, after, _ in unbroken(Path(temporary), stages):
            rooms = [int(share * (size(after) - size(before))) for share in SHARES]
            for room in (LIMITS if limit or not mounted else rooms) if stage in stages else ():
                row = Row(stage, room)
                starve(row, given, before, after, Path(temporary) / "disk", limit or not mounted)
                yield row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--limit", action="store_true")
    asked = parser.parse_args()
    print("| stage | bytes of room | last line | half files | same end |\n|---|---|---|---|---|")
    lost = False
    for row in rows(asked.stages, asked.limit):
        lost |= not row.good
        end = "yes" if row.identical else "no"
        print(f"| {row.stage} | {row.room} | {row.said} | {row.half} | {end}{', TRACEBACK' * row.traceback} |")
    sys.exit(lost)
