"""python -m trainer STAGE: the command line of trainer/cli.py, or one line if its packages are not installed."""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; returns the exit code."""
    try:
        from .cli import run_command

        return run_command(arguments)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("trainer", "zhclip"):
            raise
        root = Path(__file__).resolve().parents[1]
        print(f'trainer: {error.name} is missing; install it: {sys.executable} -m pip install "{root}[trainer]"')
        return 1


if __name__ == "__main__":
    sys.exit(main())
