"""The cache: what is stored, what its sums solve, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import encoders
from tests.encoders import WINDOW
from tests.small import captions
from trainer.cache import Cache, build
from trainer.corpus import Pair
from trainer.objective import unit
from trainer.recipe import SettingsError
from trainer.student import Student, load_student
from trainer.teacher import Teacher, load_teacher

PAIRS = [Pair(zh, en) for zh, en in captions()[:50]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, Student]:
    folder = tmp_path_factory.mktemp("encoders")
    # Teacher and student of different widths: nothing may assume that they are one.
    teacher = load_teacher(str(encoders.bert_teacher(folder / "t", width=24)), WINDOW)
    return teacher, load_student(str(encoders.student(folder / "s")), WINDOW)


def test_rows_are_what_the_encoders_give(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, teacher, student, depth=2, shard_rows=16, batch=8)
    cache = Cache.open(tmp_path, 2)
    assert len(cache) == 50
    chosen = [49, 3, 16, 15]
    target, lengths = teacher.encode([PAIRS[i].en for i in chosen])
    ids = torch.tensor([student.tokens.windows(PAIRS[i].zh)[0] for i in chosen])
    assert torch.allclose(cache.rows("target", chosen).float(), target, atol=2e-3)
    assert cache.rows("en_length", chosen).tolist() == lengths.tolist()
    assert torch.equal(cache.rows("ids", chosen).long(), ids)
    with torch.no_grad():
        assert torch.allclose(cache.rows("trunk", chosen).float(), student.hidden(ids, 2), atol=5e-3)


def test_sums_are_those_of_the_whole_corpus(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, teacher, student, depth=None, shard_rows=16, batch=8)
    cache = Cache.open(tmp_path, None)
    target = cache.column("target").float()
    with torch.no_grad():
        x = student(cache.column("ids").long()).double()  # (N, W, S)
    y = unit(target).double()
    assert torch.allclose(cache.norms(), target.norm(dim=-1).mean(dim=0), atol=1e-3)
    assert torch.allclose(cache.constant().double(), y.mean(dim=0), atol=1e-3)
    # Ridge again, as one augmented least-squares problem, each position with an indicator of its own.
    xc, yc = (x - x.mean(dim=0)).flatten(0, 1), (y - y.mean(dim=0)).flatten(0, 1)
    scale = 1e-3 * (xc.square().sum(dim=0)).mean()
    augmented = torch.cat([xc, scale.sqrt() * torch.eye(xc.shape[1], dtype=xc.dtype)])
    goal = torch.cat([yc, torch.zeros(xc.shape[1], yc.shape[1], dtype=yc.dtype)])
    weight = torch.linalg.lstsq(augmented, goal).solution
    ridge = cache.ridge(1e-3)
    assert torch.allclose(ridge.weight.double(), weight.T, atol=1e-3)
    assert torch.allclose(ridge.bias.double(), y.mean(dim=0) - x.mean(dim=0) @ weight, atol=2e-3)
    fitted = x.float() @ ridge.weight.T + ridge.bias
    assert (fitted - y).square().mean() < (cache.constant() - y).square().mean()


def test_a_killed_cache_goes_on_and_ends_in_the_same_bytes(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    for name in ("whole", "broken"):
        build(tmp_path / name, PAIRS, teacher, student, depth=2, shard_rows=16, batch=8)
    for lost in ("targets/00002", "states/00001", "trunk-2/00003"):
        (tmp_path / "broken" / f"{lost}.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"1 of 4 shards are missing; run the cache stage again"):
        Cache.open(tmp_path / "broken", 2)
    build(tmp_path / "broken", PAIRS, teacher, student, depth=2, shard_rows=16, batch=8)
    for file in sorted((tmp_path / "whole").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "broken" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_a_cache_with_other_settings_is_refused_and_both_values_shown(
    pair: tuple[Teacher, Student], tmp_path: Path
) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, teacher, student, depth=2, shard_rows=16, batch=8)
    with pytest.raises(SettingsError, match="shard_rows was 16 and is now 8"):
        build(tmp_path, PAIRS, teacher, student, depth=2, shard_rows=8, batch=8)
    with pytest.raises(SettingsError, match="rows was 50 and is now 49"):
        build(tmp_path, PAIRS[1:], teacher, student, depth=2, shard_rows=16, batch=8)
    with pytest.raises(SettingsError, match=r"trunk-1: no cache there; run the cache stage first"):
        Cache.open(tmp_path, 1)


def test_another_depth_keeps_what_does_not_depend_on_it(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path / "one", PAIRS, teacher, student, 2, shard_rows=16, batch=8)
    parts = (tmp_path / "one" / "targets", tmp_path / "one" / "states")
    kept = {file: file.stat().st_mtime_ns for part in parts for file in part.iterdir()}
    build(tmp_path / "one", PAIRS, teacher, student, 1, shard_rows=16, batch=8)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    build(tmp_path / "other", PAIRS, teacher, student, 1, shard_rows=16, batch=8)
    for file in (tmp_path / "other").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "one" / file.relative_to(tmp_path / "other")).read_bytes()
    trunks = [Cache.open(tmp_path / "one", depth).column("trunk") for depth in (1, 2)]
    assert not torch.equal(*trunks)
