"""Standardised targets, for a teacher without a final norm, such as SDXL's.

Its hidden states hold a few dimensions a hundred times as large as the others and nearly constant, which would decide
every cosine. (x - mean) / std lets each dimension count the same; a dimension that varies less than most is not blown
up. Both are measured on a sample of training captions at the positions of text, and stored beside the cache and in the
artifact.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path

import torch

from zhclip.io import save_tensors

from ..base.device import teacher_precision
from ..base.files import read_metadata, read_tensors
from ..base.recipe import Recipe, SettingsError
from ..corpus.pairs import Pair, pairs_sha256
from ..models.teacher import Teacher, teacher_from_recipe
from ..progress import Counter, Listener

FILE = "standard.safetensors"
DAMAGE_HINT = "delete it and run the cache stage again"
SAMPLE = 256  # captions
BATCH = 32
MIN_STD = 1e-6  # of captions that are all the same


def standardise_targets(folder: Path, teacher: Teacher, pairs: list[Pair], progress: Listener | None = None) -> Teacher:
    """The teacher with standardised targets; mean and std are measured unless the cache's folder has them.

    Raises SettingsError if they belong to other pairs or another teacher.
    """
    if teacher.final_norm:
        return teacher
    path, key = folder / FILE, f"{teacher.sha256} {teacher.layer} {teacher.window} {pairs_sha256(pairs)}"
    if not path.is_file():
        save_tensors(path, statistics(teacher, pairs, progress), {"of": key})
    elif read_metadata(path, DAMAGE_HINT).get("of") != key:
        raise SettingsError(
            f"{path} was measured on other pairs, or of another teacher, layer or window: use the old settings, "
            f"another --cache.dir, or delete {folder}"
        )
    return with_statistics(teacher, read_tensors(path, DAMAGE_HINT))


def standardised_teacher(recipe: Recipe, device: torch.device | str, progress: Listener | None = None) -> Teacher:
    """The recipe's teacher with the targets of its cache. Raises SettingsError if there is no cache."""
    teacher, path = teacher_from_recipe(recipe, device, progress), recipe.cache_folder / FILE
    if teacher.final_norm:
        return teacher
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the cache stage first (`python -m trainer cache`)")
    return with_statistics(teacher, read_tensors(path, DAMAGE_HINT))


def statistics(teacher: Teacher, pairs: list[Pair], progress: Listener | None = None) -> dict[str, torch.Tensor]:
    """mean and std (D,) of the teacher's hidden states; pooled_mean and pooled_std (G,) if it has pooled vectors."""
    states, pooled = [], []
    texts = sorted((pair.en for pair in pairs[:: -(-len(pairs) // SAMPLE)]), key=teacher.length)
    counter = Counter("cache standardise", len(texts), progress)
    with counter.repeated_during_forward():
        for first in range(0, len(texts), BATCH):
            ids, lengths = teacher.tokenize(texts[first : first + BATCH])
            positions = torch.arange(int(lengths.max())).expand(len(ids), -1)
            on_device = (x.to(teacher.models[0].device) for x in (ids, lengths, positions))
            with teacher_precision(teacher.models[0].device):
                hidden, vectors = teacher.outputs(*on_device)
            states.append(hidden.cpu()[(positions > 0) & (positions < lengths[:, None])])
            pooled += [] if vectors is None else [vectors.cpu()]
            counter.add(len(ids))
    out = dict(zip(("mean", "std"), _mean_and_std(torch.cat(states))))
    return out | dict(zip(("pooled_mean", "pooled_std"), _mean_and_std(torch.cat(pooled)))) if pooled else out


def with_statistics(teacher: Teacher, statistics: dict[str, torch.Tensor]) -> Teacher:
    """A copy of the teacher that standardises by these, as `statistics` returns them; empty: that does not."""
    out = copy(teacher)  # keeps the cached digest, which dataclasses.replace would forget
    vars(out).update(statistics)
    return out


def _mean_and_std(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    std = x.double().std(dim=0, correction=0)
    return x.double().mean(dim=0).float(), std.clamp_min(max(float(std.median()), MIN_STD)).float()
