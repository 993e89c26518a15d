"""Judge encoders by what their prompts paint.

python -m painter.judge --teacher DIR --encoders NAME=FILE,... [--seeds 0,1,2]

DIR is the painter's teacher, a Hugging Face folder; each encoder is an artifact that lies beside its report.json.
Prints two tables in Markdown: attributes by set, with the spread over seeds, and one by one.
"""

import argparse
import sys
from pathlib import Path

from painter import figures, unet
from trainer.student import load_student


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.judge", description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="the painter's teacher, a Hugging Face folder")
    parser.add_argument("--encoders", required=True, help="NAME=FILE of artifacts, between commas")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the starting noise, between commas")
    options = parser.parse_args(arguments)
    named = [part.partition("=") for part in options.encoders.split(",")]
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    try:
        judge = figures.Judge(unet.load(), figures.all_sets(), seeds)
        english = judge.english(load_student(str(options.teacher), unet.WINDOW).encode)
        chinese = [judge.chinese(name, Path(path)) for name, _, path in named]
    except (OSError, ValueError) as error:
        sys.exit(f"judge: {error}")
    print(figures.table([*english, *chinese]))
    print("".join(f"{name}: {figures.floors(Path(path))}" for name, _, path in named))


if __name__ == "__main__":
    main()
