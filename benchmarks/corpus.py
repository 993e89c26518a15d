"""python benchmarks/corpus.py [--quick] [--json F] [--rows 20000]

The corpus stage beside a plain loop that reads a TSV, drops exact duplicates, measures both sides with the same two
tokenizers and writes what fits: what cleaning, near duplicates, the split and the summary page cost. Rows are random
captions of the usual length, all different. Peak memory is the whole process's; `--rows 300000` is the paper's corpus.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import rounds

sys.path.insert(0, str(rounds.ROOT))

from tests import encoders, small
from trainer import corpus
from trainer.base import CorpusSettings, Recipe, StudentSettings, TeacherSettings
from trainer.encoders import caption_length, load_tokenizer, load_tokens

WINDOW = 77
KILO = 1000 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there, in kB elsewhere


def generate(path: Path, rows: int) -> None:
    """A TSV of at most 900,000 different pairs: 6 to 16 English words, 10 to 28 ideographs, each with a number."""
    source = random.Random(0)
    words = sorted({word for _, en in small.captions() for word in en.lower().split()})
    characters = sorted({c for zh, _ in small.captions() for c in zh if "\u4e00" <= c <= "\u9fff"})
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("zh\ten\n")
        for at in range(100_000, 100_000 + rows):  # six digits: a large corpus has no longer captions
            zh = "".join(source.choices(characters, k=source.randint(10, 28)))
            file.write(f"{zh}{at}\t{' '.join(source.choices(words, k=source.randint(6, 16)))} {at}\n")


def plain(path: Path, out: Path, student: Path, teacher: Path) -> None:
    """What anyone writes first."""
    zh_length = load_tokens(str(student), WINDOW).length
    en_length = partial(caption_length, load_tokenizer(str(teacher), str(teacher)))
    seen: set[str] = set()
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        zh, en = (text.strip() for text in line.split("\t"))
        if zh in seen or en in seen or zh_length(zh) > WINDOW or en_length(en) > WINDOW:
            continue
        seen |= {zh, en}
        kept.append(f"{zh}\t{en}\n")
    out.write_text("".join(["zh\ten\n", *kept]), encoding="utf-8")


def stage(path: Path, run: Path, student: Path, teacher: Path) -> None:
    """The corpus stage as it is, the dev pairs held out by their hash."""
    settings = CorpusSettings(train=str(path))
    recipe = Recipe(str(run), WINDOW, StudentSettings(str(student)), TeacherSettings(str(teacher)), settings)
    corpus.run(recipe)


def main() -> None:
    """Generate, time both in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, one round: whether it runs, no figures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    rows = 500 if given.quick else given.rows
    number = 3 if rows <= 20_000 and not given.quick else 1
    race = rounds.Race()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        student = encoders.student(folder / "student", layers=1, size=rounds.VOCABULARY)
        teacher = encoders.clip_teacher(folder / "teacher", layers=1, size=49408)
        generate(folder / "pairs.tsv", rows)
        models = {"student": student, "teacher": teacher}
        for at in range(number):
            for seconds, call in (
                (race.ours, partial(stage, folder / "pairs.tsv", folder / f"run{at}", **models)),
                (race.plain, partial(plain, folder / "pairs.tsv", folder / "plain.tsv", **models)),
            ):
                began, busy = time.perf_counter(), time.process_time()
                call()
                seconds.append(time.perf_counter() - began)
                busy = time.process_time() - busy
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KILO / 1e6
                taken = f"{seconds[-1]:.1f} s ({busy:.1f} s of CPU)"
                print(f"{rows:,} rows in {taken}, peak memory so far {peak:.2f} GB", flush=True)
    figures = {"corpus stage": race}
    print(rounds.table(figures, "plain loop"))
    for name, seconds in (("plain loop", race.plain), ("corpus stage", race.ours)):
        print(f"{name}: {rows / statistics.median(seconds):,.0f} rows/s")
    rounds.write(given.json, {**race.summary(), "rows": rows, "peak_gb": peak})


if __name__ == "__main__":
    main()
