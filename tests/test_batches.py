"""Which captions and positions a step sees."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from tests import encoders
from tests.small import captions
from trainer.base.recipe import TrainSettings
from trainer.models.freezing import set_trainable
from trainer.models.student import Ridge, Student, load_student
from trainer.training.data import MULTIPLE, READERS, microbatches, read_ahead, rounded_index
from trainer.training.losses import cosine_loss
from zhclip.positions import draw_positions, position_weights

WINDOW = 40


def batches(first: int = 0, last: int = 9, **changes: Any) -> list[list[int]]:
    """The caption indices of each pass over ten captions."""
    settings = {"rows": 10, "batch": 4, "seed": 3, **changes}
    return [rows for rows, _ in microbatches(**settings, steps=range(first, last))]


def test_order_is_a_function_of_seed_and_step() -> None:
    whole = batches()
    assert len(whole) == 9 and batches(first=5) == whole[5:] and batches(seed=4) != whole
    epochs = [whole[start : start + 3] for start in (0, 3, 6)]
    assert [{row for batch in epoch for row in batch} for epoch in epochs] == [set(range(10))] * 3
    assert epochs[0] != epochs[1]
    assert [sorted(batch) for batch in batches(rows=3, batch=6, last=1)] == [[0, 0, 1, 1, 2, 2]]  # a small corpus


def test_passes_and_processes_share_a_step() -> None:
    whole, halves = batches(), batches(accumulate=2)
    assert [a + b for a, b in zip(halves[::2], halves[1::2])] == whole
    first, second = (batches(accumulate=2, processes=2, process=process) for process in (0, 1))
    assert [a + b for a, b in zip(first, second)] == halves
    steps = [step_rows for _, step_rows in microbatches(10, 4, 3, range(9), accumulate=2)]
    assert steps[::2] == steps[1::2] == whole


def test_batches_are_read_ahead_in_order() -> None:
    begun: list[int] = []

    def read(number: int) -> dict[str, torch.Tensor]:
        begun.append(number)
        time.sleep(0.02 * (number % 3 == 0))  # later ones are ready earlier
        if number == 20:
            raise OSError
        return {"x": torch.tensor(number)}

    assert [int(batch["x"]) for batch in read_ahead(read, zip(range(19)))] == list(range(19))
    assert list(read_ahead(read, [])) == []
    begun.clear()
    batches = read_ahead(read, zip(range(1, 99)))
    next(batches)
    assert len(begun) <= READERS + 1
    with pytest.raises(OSError):
        list(batches)
    assert len(begun) < 30


def test_what_counts_is_computed_and_of_the_filling_what_rounds_it() -> None:
    for counts, length in (([40, 60, 30, 77], 256), ([77, 77, 50, 75], 308), ([64], 64), ([3, 9, 1], 27)):
        weights = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]) / WINDOW
        rows = rounded_index(weights)
        assert len(rows) == length == len(set(rows.tolist()))
        assert set(weights.flatten().nonzero()[:, 0].tolist()) <= set(rows.tolist())
        assert length % MULTIPLE == 0 or length == weights.numel()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return load_student(str(encoders.student(tmp_path_factory.mktemp("student"))), WINDOW)


def test_leaving_padding_out_changes_nothing_of_the_rest(student: Student) -> None:
    width = student.bert.dimensions.width
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(WINDOW, width, generator=generator)
    set_trainable(student, TrainSettings(layers=2), Ridge(torch.eye(width), bias))
    ids = torch.tensor([student.tokens.windows(zh)[0] for zh, _ in captions()[:8]])
    lengths = student.tokens.key_mask(ids).sum(dim=1)
    assert len(lengths.unique()) > 1
    flat, counts = draw_positions(lengths, torch.rand(8, WINDOW, generator=generator), 5)
    positions = torch.nn.utils.rnn.pad_sequence(flat.split(counts.tolist()), True, WINDOW - 1)
    weights = position_weights(lengths, counts, WINDOW)
    rows = torch.arange(8)[:, None]
    goal = torch.randn(8, WINDOW, width, generator=generator)

    def gradients(hidden: torch.Tensor | None, at: torch.Tensor | None, index: torch.Tensor | None) -> Any:
        student.zero_grad()
        z = student(ids if at is None else ids.gather(1, at), hidden, 1, at, index)[0]
        z = z if at is not None else z[rows, positions]
        (cosine_loss(z, goal[rows, positions]) * weights).sum().backward()
        return z.detach(), [p.grad.clone() for p in student.parameters() if p.grad is not None]

    whole, expected = gradients(None, None, None)
    stored = student.bert(ids, student.keys(ids), last=1).detach()[rows, positions]
    counted = weights > 0
    flat = counted.flatten().nonzero()[:, 0]
    assert len(flat) == counts.sum() < counted.numel()
    for hidden, index in ((None, None), (stored, None), (stored, flat), (None, flat)):
        z, gradient = gradients(hidden, positions, index)
        assert torch.allclose(z[counted], whole[counted], atol=1e-5)
        assert index is None or not z[~counted].any()
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradient, expected, strict=True))
