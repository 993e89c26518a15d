"""The corpus stage beside a plain loop over the same pairs: python -m benchmarks.corpus [--rows 20000] [--quick]

Further option: [--json F]. The plain loop reads a TSV, drops exact duplicates, measures both sides with the same two
tokenizers and writes what fits. The difference is what cleaning, near duplicates, and the split cost.
`--rows 300000` is the paper's corpus, once each way.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.encoders import encoders
from benchmarks.rounds import options, race, tell
from benchmarks.texts import captions
from trainer.base.recipe import CorpusSettings, Recipe, StudentSettings, TeacherSettings
from trainer.corpus.stage import run
from trainer.models.teacher import caption_length, load_tokenizer
from trainer.models.tokenizer import load_tokens

WINDOW = 77


def plain(pairs: str, out: Path, student: str, teacher: str) -> None:
    """What anyone writes first."""
    zh_length = load_tokens(student, WINDOW).length
    en_length = partial(caption_length, load_tokenizer(teacher, teacher))
    seen: set[str] = set()
    kept = []
    for line in Path(pairs).read_text(encoding="utf-8").splitlines()[1:]:
        zh, en = (text.strip() for text in line.split("\t"))
        if zh in seen or en in seen or zh_length(zh) > WINDOW or en_length(en) > WINDOW:
            continue
        seen |= {zh, en}
        kept.append(f"{zh}\t{en}\n")
    out.write_text("".join(["zh\ten\n", *kept]), encoding="utf-8")


def main() -> None:
    """Generate, time both in turns, print the table."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    rows = 500 if given.quick else given.rows
    with tempfile.TemporaryDirectory() as temporary:
        folder, runs = Path(temporary), count()
        student, teacher = encoders(folder, 1, 64)
        pairs = captions(folder / "pairs.tsv", rows)

        def ours() -> None:
            models = StudentSettings(student), TeacherSettings(teacher)
            run(Recipe(str(folder / f"run{next(runs)}"), WINDOW, *models, CorpusSettings(train=pairs)))

        once = given.quick or rows > 20_000
        measured = race(lambda: plain(pairs, folder / "plain.tsv", student, teacher), ours, once, number=3)
    tell({f"{rows:,} rows": measured}, "plain loop", "cpu", given.json)
    for name, seconds in (("plain loop", measured.plain), ("corpus stage", measured.ours)):
        print(f"{name}: {rows * len(seconds) / sum(seconds):,.0f} rows/s")


if __name__ == "__main__":
    main()
