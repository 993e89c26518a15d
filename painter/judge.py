"""Judge encoders by what their prompts paint, and the cheap figures by how well they foresee it.

python -m painter.judge --teacher DIR --encoders NAME=FILE,... --dev TSV [--seeds 0,1,2]

DIR is the painter's teacher, a Hugging Face folder; each encoder is an artifact of 40 positions that lies beside its
report.json; TSV are the dev captions, for the agreement of keys and values. Prints tables in Markdown: attributes by
set, with the spread over seeds, and one by one; the cheap figures; and in how many pairs of encoders each names the one
that paints better. Pairs that differ by less than seeds do are left out.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import torch

from painter import figures, unet
from trainer.corpus import read
from trainer.encoders import Student, load_student
from trainer.training import kv
from zhclip.artifact import load

CAPTIONS = 200
LOWER_IS_BETTER = ("loss", "loss of content", "K/V loss")


def kv_losses(english: Student, encoders: list[Student], dev: Path) -> list[float]:
    """How far each encoder's read-out through the painter's keys and values is from the teacher's."""
    pairs = list(read(str(dev)))[:CAPTIONS]
    target = english.encode([pair.en for pair in pairs])
    share = torch.full(target.shape[:2], 1 / target.shape[1])
    lengths = torch.tensor([english.tokens.length(pair.en) for pair in pairs])
    with tempfile.TemporaryDirectory() as folder:
        unet.load().save_pretrained(folder)
        layers = kv.load_layers(folder, target, share, lengths)
    texts = [pair.zh for pair in pairs]
    with torch.inference_mode():
        return [float(kv.kv_loss(one.encode(texts), target, share, layers).mean()) for one in encoders]


def cheap_figures(artifact: Path, kv_loss: float) -> dict[str, float]:
    """What is known of an encoder without painting: its report, and the agreement of keys and values."""
    report = json.loads((artifact.parent / "report.json").read_text(encoding="utf-8"))
    return {
        "loss": report["loss"]["all"],
        "loss of content": report["loss"]["content"],
        "skill": report["skill"],
        "R@1 zh to en": report["retrieval"]["zh_to_en"]["R@1"],
        "K/V loss": kv_loss,
    }


def spread(row: figures.Row, of: str) -> float:
    """How far an encoder's attributes lie apart over seeds."""
    values = [shares["attributes"] for shares in row.painted[of]]
    return max(values) - min(values)


def foreseen(figure: str, values: list[float], rows: list[figures.Row], of: str) -> tuple[int, int]:
    """In how many pairs a figure names the better painter, and how many pairs there are beyond the seeds' spread."""
    painted = [row.mean(of, "attributes") for row in rows]
    noise = max(spread(row, of) for row in rows)
    sign = -1 if figure in LOWER_IS_BETTER else 1
    told = [
        sign * (values[a] - values[b]) * (painted[a] - painted[b]) > 0
        for a, b in itertools.combinations(range(len(rows)), 2)
        if abs(painted[a] - painted[b]) > noise
    ]
    return sum(told), len(told)


def ranking(rows: list[figures.Row], cheap: list[dict[str, float]]) -> str:
    """A Markdown table of the cheap figures, and another of how often each is right."""
    names, known, told = list(cheap[0]), [], []
    for row, one in zip(rows, cheap, strict=True):
        painted = [row.mean(of, "attributes") for of in figures.SETS]
        known.append([row.name, *(f"{value:.3f}" for value in [*one.values(), *painted])])
    for name in names:
        found = [foreseen(name, [one[name] for one in cheap], rows, of) for of in figures.SETS]
        told.append([name, *(f"{right} of {pairs}" for right, pairs in found)])
    first = figures.markdown(["encoder", *names, *figures.SETS], known)
    return first + "\n" + figures.markdown(["figure", *figures.SETS], told)


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.judge", description=__doc__.partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="the painter's teacher, a Hugging Face folder")
    parser.add_argument("--encoders", required=True, help="NAME=FILE of artifacts, between commas")
    parser.add_argument("--dev", type=Path, required=True, help="dev captions, a TSV with columns zh and en")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the starting noise, between commas")
    options = parser.parse_args(arguments)
    named = {name: Path(path) for name, _, path in (part.partition("=") for part in options.encoders.split(","))}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    try:
        english = load_student(str(options.teacher), unet.WINDOW)
        encoders = [Student.from_artifact(load(path)) for path in named.values()]
        network = unet.load()
        rows = [figures.row(name, network, path, seeds) for name, path in named.items()]
        known = [
            cheap_figures(*one) for one in zip(named.values(), kv_losses(english, encoders, options.dev), strict=True)
        ]
        print(figures.table([*figures.english_rows(network, english, seeds), *rows]))
        print(ranking(rows, known))
    except (OSError, ValueError) as error:
        sys.exit(f"judge: {error}")


if __name__ == "__main__":
    main()
