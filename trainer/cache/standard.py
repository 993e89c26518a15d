"""Standardised targets, for a teacher whose hidden states no norm follows.

Such states hold a few dimensions of values a hundred times the others', nearly the same for every caption: of their
cosine those are almost all. Each dimension less its mean, over its deviation, counts as much as any other; what varies
less than most is not blown up. Both are measured on some of the training captions, at the positions of text, and stored
beside the cache, and in the file.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path

import torch

from ..base.files import read_header, read_tensors, write_tensors
from ..base.recipe import Recipe, SettingsError
from ..corpus import stage as corpus
from ..corpus.pairs import Pair
from ..models.teacher import Teacher, teacher_of

FILE = "standard.safetensors"
CURE = "delete it and run the cache stage again"
SAMPLE = 256  # captions
BATCH = 32
LEAST = 1e-6  # of captions that are all the same


def measured(folder: Path, teacher: Teacher, pairs: list[Pair]) -> Teacher:
    """The teacher as the cache in this folder takes its targets, whose figures are measured when they are not there."""
    if teacher.final_norm:
        return teacher
    path, of = folder / FILE, f"{teacher.sha256} {teacher.layer} {teacher.window} {corpus.sha256(pairs)}"
    if not path.is_file():
        write_tensors(path, figures(teacher, pairs), {"of": of})
    elif read_header(path, CURE).get("of") != of:
        raise SettingsError(
            f"{path} was measured on other pairs, or of another teacher, layer or window: use the old settings, "
            f"another --cache.dir, or delete {folder}"
        )
    return standardised(teacher, path)


def standard_teacher(recipe: Recipe, device: torch.device | str) -> Teacher:
    """The recipe's teacher as its cache took its targets. Raises SettingsError where there is no cache."""
    teacher, path = teacher_of(recipe, device), recipe.cache_folder / FILE
    if teacher.final_norm:
        return teacher
    if not path.is_file():
        raise SettingsError(f"{path}: not there; run the cache stage first (`python -m trainer cache`)")
    return standardised(teacher, path)


def standardised(teacher: Teacher, path: Path) -> Teacher:
    """The teacher whose targets are standardised by a file's figures."""
    made = copy(teacher)  # keeps the digest, which dataclasses.replace would forget
    vars(made).update(read_tensors(path, CURE))
    return made


def figures(teacher: Teacher, pairs: list[Pair]) -> dict[str, torch.Tensor]:
    """mean and std (D,) of the teacher's states, and of its pooled vectors (G,) where it has some."""
    states, projected = [], []
    chosen = sorted((pair.en for pair in pairs[:: -(-len(pairs) // SAMPLE)]), key=teacher.length)
    for at in range(0, len(chosen), BATCH):
        ids, lengths = teacher.tokens(chosen[at : at + BATCH])
        positions = torch.arange(int(lengths.max())).expand(len(ids), -1)
        given = (tensor.to(teacher.models[0].device) for tensor in (ids, lengths, positions))
        own, pooled = teacher.outputs(*given)
        text = (positions > 0) & (positions < lengths[:, None])
        states.append(own.cpu()[text])
        projected += [] if pooled is None else [pooled.cpu()]
    made = dict(zip(("mean", "std"), _moments(torch.cat(states))))
    if projected:
        made |= zip(("pooled_mean", "pooled_std"), _moments(torch.cat(projected)))
    return made


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    std = x.double().std(dim=0, correction=0)
    return x.double().mean(dim=0).float(), std.clamp_min(max(float(std.median()), LEAST)).float()
