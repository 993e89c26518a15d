"""python benchmarks/end_to_end.py FOLDER --student MODEL --teacher MODEL --train PAIRS --dev PAIRS [--window 77]
    [--steps N] [--limit 7200] [--json F]

From nothing to an encoder beside the plain way (plain_loop.py): `python -m trainer run` with the recommended recipe, or
N steps of it, for the three layers that the plain loop trains, to the artifact, and then the plain loop on the same
clean pairs until its skill on the dev pairs is as high, or the limit of seconds is over. The plain loop's teacher
answers each caption once, kept in memory; its scorings cost it nothing, and it trains a linear map and a bias for each
position besides the layers.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import plain_loop
import rounds
import torch

sys.path.insert(0, str(rounds.ROOT))

from trainer import corpus
from trainer.base import parse_recipe
from trainer.cache import Cache
from trainer.encoders import load_student, teacher_of
from trainer.training import cosine_loss
from trainer.training import opening as train

EVERY = 100  # steps between scorings
BATCH = 128


def ours(folder: Path, given: argparse.Namespace) -> float:
    """Seconds from nothing to the artifact."""
    began = time.perf_counter()
    flags = ["--config", rounds.ROOT / "recipes" / "recommended.yaml", "--run", folder, "--window", given.window]
    flags += ["--student.model", given.student, "--teacher.model", given.teacher]
    flags += ["--corpus.train", given.train, "--corpus.dev", given.dev]
    flags += ["--train.layers", 3, "--train.lr", 5e-4, *(["--train.steps", given.steps] if given.steps else [])]
    subprocess.run([sys.executable, "-m", "trainer", "run", *map(str, flags)], cwd=rounds.ROOT, check=True)
    return time.perf_counter() - began


@torch.inference_mode()
def loss(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> float:
    """Mean cosine loss over all positions."""
    total = 0.0
    for some, seen, goal in zip(ids.split(BATCH), mask.split(BATCH), target.split(BATCH)):
        hidden = model(input_ids=some, attention_mask=seen).last_hidden_state
        total += float(cosine_loss(hidden, goal).sum())
    return total / target.shape[0] / target.shape[1]


def plain(folder: Path, wanted: float, constant: float, limit: float) -> list[tuple[int, float, float]]:
    """(step, seconds, skill) of the plain loop's scorings, until it is as good or the limit is over."""
    recipe = parse_recipe(folder / "recipe.yaml")
    pairs = corpus.read_pairs(folder / "corpus" / "train.tsv")
    dev = Cache.open(recipe.cache_folder / "dev", load_student(str(recipe.student.model), recipe.window).depth, None)
    rows = list(range(len(dev)))
    dev_ids, dev_target = dev.rows("ids", rows).long(), dev.rows("target", rows)
    began = time.perf_counter()
    student, teacher = load_student(str(recipe.student.model), recipe.window), teacher_of(recipe, "cpu")
    ids = torch.tensor([student.tokens.windows(pair.zh)[0] for pair in pairs])
    english = [pair.en for pair in pairs]
    targets = [teacher.encode(english[at : at + BATCH])[0].half() for at in range(0, len(pairs), BATCH)]
    model = plain_loop.WithHead(plain_loop.free(student.bert, "unfreeze"), recipe.window, targets[0].shape[-1])
    mask, dev_mask = (student.tokens.key_mask(some).long() for some in (ids, dev_ids))
    precision, batch = train.precision(recipe.train), min(BATCH, len(pairs))
    steps = plain_loop.steps(model, ids, mask, torch.cat(targets), batch, precision)
    found, scoring = [], 0.0
    while not found or (found[-1][2] < wanted and found[-1][1] < limit):
        for _ in range(EVERY):
            next(steps)
        seconds = time.perf_counter() - began - scoring
        found.append((EVERY * (len(found) + 1), seconds, 1 - loss(model, dev_ids, dev_mask, dev_target) / constant))
        scoring = time.perf_counter() - began - seconds
        print(f"plain loop: step {found[-1][0]}, {seconds:.0f} s, skill {found[-1][2]:.3f} of {wanted:.3f}", flush=True)
    return found


def main() -> None:
    """Ours, then the plain loop to the same skill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("student", "teacher", "train", "dev"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--window", type=int, default=77)
    parser.add_argument("--steps", type=int, help="of ours; by default the recipe's")
    parser.add_argument("--limit", type=float, default=7200)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    ours_s = ours(given.folder, given)
    report = json.loads((given.folder / "report.json").read_text(encoding="utf-8"))
    print(f"ours: {ours_s:.0f} s to the artifact, skill {report['skill']:.3f}", flush=True)
    found = plain(given.folder, report["skill"], report["floors"]["constant"]["all"], given.limit)
    step, plain_s, skill = found[-1]
    reached = "the same skill" if skill >= report["skill"] else f"only {skill:.3f}"
    print(f"plain loop: {reached} after {step} steps and {plain_s:.0f} s: ours takes {ours_s / plain_s:.2f} of it")
    rounds.write(
        given.json,
        {"ours_s": ours_s, "plain_s": plain_s, "ratio": ours_s / plain_s, "skill": report["skill"], "plain": found},
    )


if __name__ == "__main__":
    main()
