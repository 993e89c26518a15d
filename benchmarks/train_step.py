"""python benchmarks/train_step.py [--strategy unfreeze|lora] [--device cpu|cuda] [--batch 32] [--quick] [--json F]

One step of training beside the plain way (plain_loop.py), at full shape, 12 x 768 with random weights and 77 positions:
stored trunk and compact positions against every layer at every position. The captions are random characters, as many
as in a corpus of human translations. Both train in turns, in one process, the same strategy at the same precision.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import plain_loop
import rounds
import torch
from accelerate import Accelerator

sys.path.insert(0, str(rounds.ROOT))

from tests import encoders, small
from trainer import cache, corpus
from trainer.base import CacheSettings, CorpusSettings, Recipe, StudentSettings, TeacherSettings, TrainSettings
from trainer.encoders import load_tokens, teacher_of, trunk_depth
from trainer.report import answers
from trainer.training import Loss, checkpoint, clip_gradient
from trainer.training import opening as train

# Tokens of a caption, start and end included, on its longer side, by Chinese-CLIP's vocabulary and CLIP's: twenty
# captions evenly spaced among 3AM's 23,604 training pairs, sorted by it. Their mean is 22.6, that of all 22.8.
LENGTHS = (11, 12, 14, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 27, 29, 31, 34, 38, 45)


def generate(path: Path, rows: int) -> None:
    """A TSV of different pairs with these lengths; the English side is the shorter one, as it usually is."""
    source = random.Random(0)
    words = sorted({word.lower() for _, en in small.captions() for word in en.split() if word.isalpha()})
    characters = sorted({c for zh, _ in small.captions() for c in zh if "\u4e00" <= c <= "\u9fff"})
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("zh\ten\n")
        for at in range(rows):
            length = LENGTHS[at % len(LENGTHS)] - 2
            zh, en = source.choices(characters, k=length), source.choices(words, k=max(3, length // 2))
            file.write(f"{''.join(zh)}\t{' '.join(en)}\n")


def ours(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """The trainer's loop without its logs and checkpoints. Yields after each step."""
    settings = recipe.train
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=train.precision(settings))
    student, _, cached = train.open_training(recipe, device)
    depth = trunk_depth(settings, student.depth)
    learning = checkpoint.trainable(student)
    optimiser = torch.optim.AdamW(learning.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    loss_of = Loss.of(cached, settings, student, device)
    loader = train.loader(recipe.train, cached, range(10**6), accelerator)
    model, prepared = accelerator.prepare(student, optimiser)
    model.train()
    for batch in loader:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        z = model(batch["ids"], batch.get("trunk"), depth or 0, batch["positions"], batch["kept"])
        terms = loss_of(z, batch)
        accelerator.backward(terms["objective"])
        clip_gradient(accelerator, list(learning.values()), settings.clip or 1.0)
        prepared.step()
        prepared.zero_grad()
        yield


def finished(steps: Iterator[None], device: torch.device) -> None:
    """One step, waited for: a GPU works on after the call."""
    next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Make encoders, captions and cache, then time both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=("unfreeze", "lora"), default="unfreeze")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: whether it runs, no figures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    device = torch.device(given.device)
    layers, width, heads = (4, 64, 4) if given.quick else (12, 768, 12)
    captions, batch = (64, 8) if given.quick else (given.captions, given.batch)
    settings = TrainSettings(strategy=given.strategy, layers=3, start="student", contrast=0.0, batch=batch)
    precision = train.precision(settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        student = encoders.student(folder / "student", width, layers=layers, heads=heads, size=rounds.VOCABULARY)
        teacher = encoders.clip_teacher(folder / "teacher", width, layers=layers, size=49408)
        generate(folder / "pairs.tsv", captions)
        recipe = Recipe(
            str(folder / "run"),
            77,
            StudentSettings(str(student)),
            TeacherSettings(str(teacher)),
            CorpusSettings(train=str(folder / "pairs.tsv"), dev_share=8 / captions, near=None),
            CacheSettings(shard_rows=captions),
            settings,
        )
        corpus.run(recipe)
        cache.run(recipe)
        pairs = corpus.read_pairs(recipe.folder / "corpus" / "train.tsv")
        answer = answers(teacher_of(recipe, device), pairs)
        rows = range(len(pairs))
        target = torch.cat([answer(list(rows[at : at + batch])).half() for at in rows[::batch]]).to(device)
        tokens = load_tokens(str(student), recipe.window)
        ids = torch.tensor([tokens.windows(pair.zh)[0] for pair in pairs], device=device)
        model = plain_loop.load(student, given.strategy).to(device)
        plain = plain_loop.steps(model, ids, (ids != 0).long(), target, batch, precision)
        our = ours(recipe, device)
        race = rounds.race(
            lambda: finished(plain, device),
            lambda: finished(our, device),
            repeat=1 if given.quick else 4,
            number=1 if given.quick else rounds.ROUNDS,
            warm=True,
        )
    name = f"{given.strategy}, a step of {batch}"
    print(f"{device.type}, {precision}, {torch.get_num_threads()} threads, {len(rows)} captions")
    print(rounds.table({name: race}, "plain loop"))
    rounds.write(given.json, race.summary() | {"precision": precision, "device": device.type})


if __name__ == "__main__":
    main()
