"""python -m tests.unlike_ranks FLAGS: the train stage where the processes of a launcher score unlike, as GPUs that
round unlike do. The first scores best at its third scoring, the others at their first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from trainer.__main__ import main
from trainer.models.student import Student
from trainer.training.dev import Dev

SKILLS = {True: [0.1, 0.2, 0.3], False: [0.3, 0.2, 0.1]}


def skills() -> Iterator[float]:
    """What a process scores, the last of them for ever."""
    own = SKILLS[os.environ["RANK"] == "0"]
    yield from own
    while True:
        yield own[-1]


if __name__ == "__main__":
    coming = skills()

    def unlike(self: Dev, student: Student) -> tuple[float, int]:
        return next(coming), 0

    Dev.score = unlike  # type: ignore[method-assign]
    sys.exit(main(["train", *sys.argv[1:]]))
