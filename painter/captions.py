"""The demonstration's corpus: distinct captions of random scenes in Chinese and English, and held-out ones.

No training caption has, in either language, a held-out combination of objects (drawable.py).
"""

import random
from pathlib import Path

from painter import drawable
from trainer.corpus.pairs import Pair
from trainer.corpus.stage import write_pairs


def distinct_pairs(count: int, held_out: bool, rng: random.Random) -> list[Pair]:
    """Captions of two groups, held out or for training, no text among them twice."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    while len(pairs) < count:
        scene = drawable.random_scene(rng, held_out, two_groups=1.0)
        texts = drawable.chinese(scene, rng), drawable.english(scene)
        if seen.isdisjoint(texts):
            pairs.append(Pair(*texts))
            seen.update(texts)
    return pairs


def write_corpus(folder: Path, pairs: int = 1_500, dev: int = 100, seed: int = 0) -> None:
    """Write train.tsv and dev.tsv, which has held-out combinations alone; the same arguments give the same bytes."""
    rng = random.Random(seed)
    for name, count in (("train", pairs), ("dev", dev)):
        write_pairs(folder / f"{name}.tsv", distinct_pairs(count, name == "dev", rng))
