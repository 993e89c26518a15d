"""From nothing to an encoder beside the plain loop to the same skill: python -m benchmarks.end_to_end FOLDER \\
    --student MODEL --teacher MODEL --train PAIRS --dev PAIRS [--window 77] [--steps N] [--limit 7200]

Ours is `python -m trainer run` with the recommended recipe, or N steps of it, for the three layers that the plain loop
trains, to the artifact. The plain loop (plain_loop.py) then trains on the same clean pairs until its skill on the dev
pairs is as high, or the limit of seconds is over. Its teacher answers each caption once, kept in memory; its scorings
cost it nothing; it trains a linear map and a bias for each position besides the layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import plain_loop
from benchmarks.rounds import ROOT
from trainer.base.settings import parse_recipe
from trainer.cache.shards import Cache
from trainer.corpus.stage import read_pairs
from trainer.models.student import load_student
from trainer.models.teacher import teacher_of
from trainer.training import opening
from trainer.training.objective import cosine_loss

EVERY = 100  # steps between scorings
BATCH = 128


def ours(folder: Path, given: argparse.Namespace) -> float:
    """Seconds from nothing to the artifact."""
    flags = {"config": ROOT / "recipes" / "recommended.yaml", "run": folder, "window": given.window}
    flags |= {"student.model": given.student, "teacher.model": given.teacher}
    flags |= {"corpus.train": given.train, "corpus.dev": given.dev}
    flags |= {"train.layers": plain_loop.LAYERS, "train.lr": plain_loop.RATE}
    flags |= {"train.batch": BATCH, "train.warmup": 50}  # as many captions a step as the plain loop
    flags |= {"train.steps": given.steps} if given.steps else {}
    arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trainer", "run", *arguments], cwd=ROOT, check=True)
    return time.perf_counter() - began


@torch.inference_mode()
def loss(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> float:
    """Mean cosine loss over all positions."""
    total = 0.0
    for some, seen, goal in zip(ids.split(BATCH), mask.split(BATCH), target.split(BATCH)):
        hidden = model(input_ids=some, attention_mask=seen).last_hidden_state
        total += float(cosine_loss(hidden, goal).sum())
    return total / target.shape[0] / target.shape[1]


def plain(folder: Path, wanted: float, constant: float, limit: float) -> tuple[int, float, float]:
    """(step, seconds, skill) of the plain loop's last scoring: it is as good, or the limit is over."""
    recipe = parse_recipe(folder / "recipe.yaml")
    pairs = read_pairs(folder / "corpus" / "train.tsv")
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
    precision, batch = opening.precision(recipe.train), min(BATCH, len(pairs))
    steps = plain_loop.steps(model, ids, mask, torch.cat(targets), batch, precision)
    step, seconds, skill, scoring = 0, 0.0, -float("inf"), 0.0
    while skill < wanted and (not step or seconds < limit):
        for _ in range(EVERY):
            next(steps)
        step, seconds = step + EVERY, time.perf_counter() - began - scoring
        skill = 1 - loss(model, dev_ids, dev_mask, dev_target) / constant
        scoring = time.perf_counter() - began - seconds
        print(f"plain loop: step {step}, {seconds:.0f} s, skill {skill:.3f} of {wanted:.3f}", flush=True)
    return step, seconds, skill


def main() -> None:
    """Ours, then the plain loop to the same skill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("student", "teacher", "train", "dev"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--window", type=int, default=77)
    parser.add_argument("--steps", type=int, help="of ours; by default the recipe's")
    parser.add_argument("--limit", type=float, default=7200)
    given = parser.parse_args()
    ours_s = ours(given.folder, given)
    report = json.loads((given.folder / "report.json").read_text(encoding="utf-8"))
    wanted, constant = report["skill"], report["baselines"]["constant"]["all"]
    print(f"ours: {ours_s:.0f} s to the artifact, skill {wanted:.3f}", flush=True)
    step, plain_s, skill = plain(given.folder, wanted, constant, given.limit)
    reached = "the same skill" if skill >= wanted else f"only {skill:.3f}"
    print(f"plain loop: {reached} after {step} steps and {plain_s:.0f} s: ratio {ours_s / plain_s:.2f}")


if __name__ == "__main__":
    main()
