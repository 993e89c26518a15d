"""The cache: what is stored, what its sums solve, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests import encoders
from tests.encoders import WINDOW
from tests.small import captions
from trainer.base.recipe import SettingsError
from trainer.cache.making import Making
from trainer.cache.shards import Cache
from trainer.cache.stage import build
from trainer.corpus.pairs import Pair
from trainer.models.student import Student, load_student
from trainer.models.teacher import Teacher, load_teacher
from trainer.training.batches import Captions, Piece

PAIRS = [Pair(zh, en) for zh, en in captions()[:50]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, Student]:
    folder = tmp_path_factory.mktemp("encoders")
    # Teacher and student of different widths: nothing may assume that they are one.
    teacher = load_teacher(str(encoders.bert_teacher(folder / "t", width=24)), WINDOW)
    return teacher, load_student(str(encoders.student(folder / "s")), WINDOW)


def test_rows_are_what_the_encoders_give(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, 2, None, 16, 8))
    cache = Cache.open(tmp_path, 2, None)
    assert len(cache) == 50
    chosen = [49, 3, 16, 15]
    target, lengths = teacher.encode([PAIRS[i].en for i in chosen])
    ids = torch.tensor([student.tokens.windows(PAIRS[i].zh)[0] for i in chosen])
    assert torch.allclose(cache.rows("target", chosen).float(), target, atol=2e-3)
    assert cache.rows("en_length", chosen).tolist() == lengths.tolist()
    assert torch.equal(cache.rows("ids", chosen).long(), ids)
    with torch.no_grad():
        assert torch.allclose(
            cache.rows("trunk", chosen).float(), student.bert(ids, student.keys(ids), last=2), atol=5e-3
        )


def test_kept_positions_are_those_of_the_whole(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, 2, 3, 16, 8))
    build(tmp_path, PAIRS, Making(teacher, student, 2, None, 16, 8))
    few, whole = Cache.open(tmp_path, 2, 3), Cache.open(tmp_path, 2, None)
    chosen = [49, 3, 16, 15, 40]
    lengths, counts = few.rows("length", chosen), few.rows("count", chosen)
    ids, en = few.rows("ids", chosen).long(), few.rows("en_length", chosen)
    assert torch.equal(lengths, torch.maximum(student.tokens.key_mask(ids).sum(dim=1), en))
    assert torch.equal(counts, (lengths + 3).clamp(max=WINDOW)) and len(counts.unique()) > 1
    position = few.rows("position", chosen)
    assert position.shape == (5, counts.max()) and few.rows("trunk", chosen).shape[:2] == position.shape
    for row, count, length in zip(range(5), counts.tolist(), lengths.tolist()):
        mine = position[row, :count]
        assert mine[:length].tolist() == list(range(length)) and (mine.diff() > 0).all()
        assert (position[row, count:] == WINDOW - 1).all()
        for name in ("target", "trunk", "ids"):
            assert torch.equal(few.rows(name, chosen)[row, :count], whole.rows(name, chosen)[row, mine])
    for name in ("xx", "xy", "x", "y", "norm_sum"):
        assert torch.equal(few.sums[name], whole.sums[name])


def test_a_piece_brings_the_english_sentence_of_every_caption_of_the_step(
    pair: tuple[Teacher, Student], tmp_path: Path
) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, 2, 3, 16, 8))
    step = [49, 3, 16, 15, 40, 7]
    target, lengths = teacher.encode([PAIRS[i].en for i in step])
    meant = torch.stack(
        [normalize(target[i, :length], dim=-1).mean(dim=0) for i, length in enumerate(lengths.tolist())]
    )
    captions = Captions(Cache.open(tmp_path, 2, 3), contrast=True)
    for begin, end in ((0, 6), (2, 4)):
        batch = captions.__getitems__(Piece(step, begin, end))
        assert batch["en"].dtype == torch.float32 and torch.allclose(batch["en"], meant, atol=1e-3)
        assert batch["own"].nonzero().tolist() == [[i, begin + i] for i in range(end - begin)]


def test_a_copy_on_a_device_reads_the_same(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, 2, 3, 16, 8))
    mapped = Cache.open(tmp_path, 2, 3)
    copied = mapped.moved(torch.device("cpu"))
    assert len(copied) == len(mapped) == 50 and copied.vector_bytes() == mapped.vector_bytes() > 0
    for name in ("target", "trunk", "position", "ids", "count", "length", "en_length"):
        assert torch.equal(copied.rows(name, [49, 3, 16, 15]), mapped.rows(name, [49, 3, 16, 15]))


def test_sums_are_those_of_the_whole_corpus(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, None, None, 16, 8))
    cache = Cache.open(tmp_path, None, None)
    target = cache.rows("target", list(range(len(cache)))).float()
    with torch.no_grad():
        x = student(cache.rows("ids", list(range(len(cache)))).long())[0].double()  # (N, W, S)
    y = normalize(target, dim=-1).double()
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
        build(tmp_path / name, PAIRS, Making(teacher, student, 2, None, 16, 8))
    for lost in ("captions/00002", "captions/00001", "captions/sums", "trunk-2/00003"):
        (tmp_path / "broken" / f"{lost}.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"2 of 4 shards are missing; run the cache stage again"):
        Cache.open(tmp_path / "broken", 2, None)
    build(tmp_path / "broken", PAIRS, Making(teacher, student, 2, None, 16, 8))
    for file in sorted((tmp_path / "whole").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "broken" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_a_cache_with_other_settings_is_refused_and_both_values_shown(
    pair: tuple[Teacher, Student], tmp_path: Path
) -> None:
    teacher, student = pair
    build(tmp_path, PAIRS, Making(teacher, student, 2, None, 16, 8))
    with pytest.raises(SettingsError, match="shard_rows was 16 and is now 8"):
        build(tmp_path, PAIRS, Making(teacher, student, 2, None, 8, 8))
    with pytest.raises(SettingsError, match="rows was 50 and is now 49"):
        build(tmp_path, PAIRS[1:], Making(teacher, student, 2, None, 16, 8))
    with pytest.raises(SettingsError, match=r"trunk-1: no cache there; run the cache stage first"):
        Cache.open(tmp_path, 1, None)


def test_another_depth_keeps_what_does_not_depend_on_it(pair: tuple[Teacher, Student], tmp_path: Path) -> None:
    teacher, student = pair
    build(tmp_path / "one", PAIRS, Making(teacher, student, 2, None, 16, 8))
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "one" / "captions").iterdir()}
    build(tmp_path / "one", PAIRS, Making(teacher, student, 1, None, 16, 8))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    build(tmp_path / "other", PAIRS, Making(teacher, student, 1, None, 16, 8))
    for file in (tmp_path / "other").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "one" / file.relative_to(tmp_path / "other")).read_bytes()
    trunks = [Cache.open(tmp_path / "one", depth, None).column("trunk") for depth in (1, 2)]
    assert not torch.equal(*trunks)


@pytest.mark.parametrize("make", [encoders.clip_teacher, encoders.bert_teacher])
def test_positions_that_nobody_reads_are_not_computed(make: Callable[..., Path], tmp_path: Path) -> None:
    teacher = load_teacher(str(make(tmp_path / "t")), WINDOW)
    student = load_student(str(encoders.student(tmp_path / "s")), WINDOW)
    pairs = PAIRS[:32]
    ids, lengths = teacher.tokens([pair.en for pair in pairs])
    some = torch.arange(0, WINDOW, 2)  # not the last, and all of them behind the text
    some = torch.cat([torch.arange(int(lengths.max())), some[some >= lengths.max()]]).expand(len(pairs), -1)
    whole = teacher.encode([pair.en for pair in pairs])[0]
    assert torch.allclose(teacher.states(ids, lengths, some), whole[:, some[0]], atol=1e-6)
    exact, kept = (Making(teacher, student, 2, 2, 32, 8, exact=one) for one in (True, False))
    (a, sums, trunk), (b, drawn, other) = exact.shard(pairs, 0), kept.shard(pairs, 0)
    for one, two in ((a, b), (trunk, other)):
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[name].float(), two[name].float(), atol=2e-3) for name in one)  # half precision
    assert torch.allclose(drawn["en_pooled_sum"], sums["en_pooled_sum"], rtol=1e-5)
    # Drawn padding stands for all of it: in the mean of many draws the sums are the whole ones.
    total = {name: torch.zeros_like(value) for name, value in sums.items()}
    for number in range(100):
        for name, value in kept.shard(pairs, number)[1].items():
            total[name] += value / 100
    for name in ("xx", "xy", "x", "y", "norm_sum", "weight"):
        assert float((total[name] - sums[name]).norm() / sums[name].norm()) < 0.03, name
