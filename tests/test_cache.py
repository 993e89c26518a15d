"""The cache: what is stored, what its sums solve, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from tests import encoders
from tests.encoders import WINDOW
from tests.small import captions
from trainer.base.device import is_out_of_memory
from trainer.base.recipe import SettingsError
from trainer.cache.builder import SUM_ROWS, CacheBuilder, sum_pads
from trainer.cache.shards import Cache
from trainer.cache.stage import build
from trainer.corpus.pairs import Pair
from trainer.models.student import Student, load_student
from trainer.models.teacher import Teacher, load_teacher
from trainer.progress import Cancelled, Progress
from trainer.training.data import caption_batch
from zhclip.bert import Bert
from zhclip.device import matmul_precision

PAIRS = [Pair(zh, en) for zh, en in captions()[:50]]
CHOSEN = [49, 3, 16, 15, 40]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CacheBuilder:
    """A builder of all positions, two layers and shards of 16. Teacher and student are of different widths."""
    folder = tmp_path_factory.mktemp("encoders")
    teacher = load_teacher(str(encoders.bert_teacher(folder / "t", width=24)), WINDOW)
    return CacheBuilder(teacher, load_student(str(encoders.student(folder / "s")), WINDOW), PAIRS, 2, None, 16, 8)


def built(folder: Path, builder: CacheBuilder) -> Cache:
    build(folder, builder)
    return Cache.open(folder, builder.depth, builder.pads)


def hidden(student: Student, ids: torch.Tensor, depth: int) -> torch.Tensor:
    with torch.no_grad():
        return student.bert(ids, student.keys(ids), last=depth)


def test_rows_are_what_the_encoders_give(whole: CacheBuilder, tmp_path: Path) -> None:
    cache, student = built(tmp_path, whole), whole.student
    assert len(cache) == 50
    texts = [PAIRS[i].en for i in CHOSEN]
    target, lengths = whole.teacher.encode(texts)[0], whole.teacher.tokenize(texts)[1]
    ids = torch.tensor([student.tokens.windows(PAIRS[i].zh)[0] for i in CHOSEN])
    assert torch.allclose(cache.rows("target", CHOSEN).float(), target, atol=2e-3)
    assert cache.rows("en_length", CHOSEN).tolist() == lengths.tolist()
    assert torch.equal(cache.rows("ids", CHOSEN).long(), ids)
    assert torch.allclose(cache.rows("frozen_hidden", CHOSEN).float(), hidden(student, ids, 2), atol=5e-3)


def test_stored_positions_are_those_of_the_whole_window(whole: CacheBuilder, tmp_path: Path) -> None:
    few, every = built(tmp_path, replace(whole, pads=3)), built(tmp_path, whole)
    lengths, counts = few.rows("length", CHOSEN), few.rows("count", CHOSEN)
    ids, en = few.rows("ids", CHOSEN).long(), few.rows("en_length", CHOSEN)
    assert torch.equal(lengths, torch.maximum(whole.student.tokens.key_mask(ids).sum(dim=1), en))
    assert torch.equal(counts, (lengths + 3).clamp(max=WINDOW)) and len(counts.unique()) > 1
    position = few.rows("position", CHOSEN)
    assert position.shape == (5, counts.max()) and few.rows("frozen_hidden", CHOSEN).shape[:2] == position.shape
    for row, count, length in zip(range(5), counts.tolist(), lengths.tolist()):
        stored = position[row, :count]
        assert stored[:length].tolist() == list(range(length)) and (stored.diff() > 0).all()
        assert (position[row, count:] == WINDOW - 1).all()
        for name in ("target", "frozen_hidden", "ids"):
            assert torch.equal(few.rows(name, CHOSEN)[row, :count], every.rows(name, CHOSEN)[row, stored])
    # So small a cache draws all padded positions for its sums.
    for name in ("xx", "xy", "x", "y", "norm_sum", "weight"):
        assert torch.equal(few.sums[name], every.sums[name])


def test_a_piece_brings_the_english_sentence_of_every_caption_of_the_step(whole: CacheBuilder, tmp_path: Path) -> None:
    step = [49, 3, 16, 15, 40, 7]
    texts = [PAIRS[i].en for i in step]
    target, lengths = whole.teacher.encode(texts)[0], whole.teacher.tokenize(texts)[1]
    means = [normalize(target[i, :length], dim=-1).mean(dim=0) for i, length in enumerate(lengths.tolist())]
    cache = built(tmp_path, replace(whole, pads=3))
    for begin, end in ((0, 6), (2, 4)):
        batch = caption_batch(cache, step[begin:end], step)
        assert batch["english"].dtype == torch.float32
        assert torch.allclose(batch["english"], torch.stack(means), atol=1e-3)
        assert batch["own"].nonzero().tolist() == [[i, begin + i] for i in range(end - begin)]


def test_sums_are_those_of_the_whole_corpus(whole: CacheBuilder, tmp_path: Path) -> None:
    cache = built(tmp_path, replace(whole, depth=None))
    target, ids = (cache.rows(name, list(range(50))) for name in ("target", "ids"))
    x = hidden(whole.student, ids.long(), whole.student.depth).double()  # (N, W, S)
    y = normalize(target.float(), dim=-1).double()
    assert torch.allclose(cache.norms()[:, 0], target.float().norm(dim=-1).mean(dim=0), atol=1e-3)
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


def test_a_killed_cache_continues_and_ends_in_the_same_bytes(whole: CacheBuilder, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        build(tmp_path / name, whole)
    for lost in ("captions/00002", "captions/00001", "captions/sums", "frozen-2/00003"):
        (tmp_path / "broken" / f"{lost}.safetensors").unlink()
    cut = tmp_path / "broken" / "captions" / "00000.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(SettingsError):
        Cache.open(tmp_path / "broken", 2, None)
    events: list[Progress] = []
    build(tmp_path / "broken", whole, progress=events.append)
    assert {(event.stage, event.total) for event in events} == {("cache broken", 50)}
    assert [event.done for event in events] == [0, 8, 16, 24, 32, 40, 48, 50]  # a batch of 8 at a time
    for file in sorted((tmp_path / "whole").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "broken" / file.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize(("interval", "seen"), [(99.0, [0, 8, 16, 24, 32, 40]), (0.0, [0] * 6)])
def test_a_cancelled_cache_keeps_its_shards(
    interval: float, seen: list[int], whole: CacheBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in its third shard, or, where events come during a forward pass, in its first batch."""
    monkeypatch.setattr("trainer.progress.REPEAT_SECONDS", interval)
    events: list[int] = []

    def listener(event: Progress) -> None:
        events.append(event.done)
        if len(events) == 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        build(tmp_path, whole, progress=listener)
    assert events == seen and len(list(tmp_path.glob("frozen-2/0*.safetensors"))) == seen[-1] // 16


def test_other_settings_are_refused_and_both_values_shown(whole: CacheBuilder, tmp_path: Path) -> None:
    build(tmp_path, whole)
    for builder, *named in (
        (replace(whole, shard_rows=8), "shard_rows", "16", "8"),
        (replace(whole, pairs=PAIRS[1:]), "rows", "50", "49"),
    ):
        with pytest.raises(SettingsError) as refused:
            build(tmp_path, builder)
        assert all(text in str(refused.value) for text in named)
    with pytest.raises(SettingsError, match="frozen-1"):
        Cache.open(tmp_path, 1, None)


def test_another_depth_keeps_what_does_not_depend_on_it(whole: CacheBuilder, tmp_path: Path) -> None:
    build(tmp_path / "one", whole)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "one" / "captions").iterdir()}
    runs: list[tuple[int, int | None]] = []
    hook = whole.student.bert.register_forward_pre_hook(
        lambda _, args, options: runs.append((options.get("first", 0), options.get("last"))), with_kwargs=True
    )
    build(tmp_path / "one", replace(whole, depth=1))
    hook.remove()
    assert set(runs) == {(0, 1)}  # no layer above the stored one
    assert {file: file.stat().st_mtime_ns for file in before} == before
    build(tmp_path / "other", replace(whole, depth=1))
    for file in (tmp_path / "other").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "one" / file.relative_to(tmp_path / "other")).read_bytes()
    states = [Cache.open(tmp_path / "one", depth, None).column("frozen_hidden") for depth in (1, 2)]
    assert not torch.equal(*states)


@pytest.mark.parametrize("make", [encoders.clip_teacher, encoders.bert_teacher])
def test_positions_that_nobody_reads_are_not_computed(make: Callable[..., Path], tmp_path: Path) -> None:
    teacher: Teacher = load_teacher(str(make(tmp_path / "t")), WINDOW)
    student = load_student(str(encoders.student(tmp_path / "s")), WINDOW)
    pairs = PAIRS[:32]
    ids, lengths = teacher.tokenize([pair.en for pair in pairs])
    text, padding = torch.arange(WINDOW) < lengths.max(), torch.arange(WINDOW) % 2 == 0
    chosen = (text | padding).nonzero()[:, 0]
    every = teacher.encode([pair.en for pair in pairs])[0]
    assert torch.allclose(teacher.outputs(ids, lengths, chosen.expand(len(pairs), -1))[0], every[:, chosen], atol=1e-6)
    # As many rows as pairs repeat them, since the shard's number seeds the draw.
    small = CacheBuilder(teacher, student, pairs * 200, 2, 2, 32, 8, rows=32)
    large = replace(small, rows=SUM_ROWS)
    (columns, sums, frozen), (same_columns, drawn, same_frozen) = small.shard(0), large.shard(0)
    one, two = columns | frozen, same_columns | same_frozen
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=2e-3) for name in one)  # half precision
    assert torch.allclose(drawn["en_sentence_sum"], sums["en_sentence_sum"], rtol=1e-5)
    # Drawn padding stands for all of it: the mean of many draws is the sum over all positions.
    total = {name: torch.zeros_like(value) for name, value in sums.items()}
    for number in range(100):
        for name, value in large.shard(number)[1].items():
            total[name] += value / 100
    for name in ("xx", "xy", "x", "y", "norm_sum", "weight"):
        assert float((total[name] - sums[name]).norm() / sums[name].norm()) < 0.03, name


def test_a_small_cache_draws_more_positions_for_its_sums() -> None:
    assert [sum_pads(2, rows) for rows in (10_000, SUM_ROWS, 2000, 50)] == [2, 2, 5, 164]
    assert sum_pads(None, 50) is None


@pytest.mark.parametrize("kind", ["first pass", "frozen hidden states"])
def test_a_batch_that_does_not_fit_in_memory_is_halved(
    kind: str, whole: CacheBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, builder = built(tmp_path / "whole", replace(whole, depth=1)), replace(whole)
    if kind != "first pass":
        build(tmp_path / "tight", builder)
    plain = Bert.forward

    def tight(self: Bert, ids: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if len(ids) > 2:
            torch.empty(10**15)  # the allocator's own error, as on a card that is too small
        return plain(self, ids, *args, **options)

    monkeypatch.setattr(Bert, "forward", tight)
    builder.depth = 1
    cache = built(tmp_path / "tight", builder)
    assert builder.batch == 2 and any("--cache.batch 2" in record.getMessage() for record in caplog.records)
    assert torch.allclose(cache.column("frozen_hidden"), expected.column("frozen_hidden"), atol=1e-3)
    monkeypatch.setattr(Bert, "forward", lambda *args, **options: torch.empty(10**15))
    with pytest.raises(RuntimeError):
        build(tmp_path / "none", builder)


def test_errors_that_say_that_memory_is_used_up() -> None:
    for text in ("CUDA error: out of memory", "CUDA out of memory. Tried", "CUBLAS_STATUS_ALLOC_FAILED when calling"):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied")) and not is_out_of_memory(OSError("x"))


def test_tf32_is_allowed_in_a_block_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ValueError), matmul_precision("high"):
        assert torch.get_float32_matmul_precision() == "high"
        raise ValueError
    assert torch.get_float32_matmul_precision() == before


def test_where_fp16_is_best_the_teacher_runs_in_it(whole: CacheBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, exact_sums, _ = whole.shard(0)
    monkeypatch.setattr("trainer.base.device.best_precision", lambda gpu: "fp16")  # as on a T4
    half, sums, _ = whole.shard(0)
    assert not torch.equal(half["target"], exact["target"])
    cosines = torch.cosine_similarity(half["target"].double(), exact["target"].double(), dim=-1)
    assert (1 - cosines).mean() < 1e-5
    assert all(tensor.dtype == torch.float64 for tensor in sums.values())
    torch.testing.assert_close(sums["xx"], exact_sums["xx"], rtol=1e-2, atol=1e-1)
