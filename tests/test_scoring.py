"""Figures on cases whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.evaluate import Sums, retrieval
from trainer.objective import cosine_loss, zone_masks
from trainer.recipe import TrainSettings
from trainer.train import DivergedError, check, rate, total_steps


def test_cosine_loss_is_one_minus_the_cosine() -> None:
    z = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert torch.allclose(cosine_loss(z, target), torch.tensor([[0.0, 1.0, 2.0, 1 - math.sqrt(0.5)]]), atol=1e-6)


def test_zones_part_the_window() -> None:
    masks = zone_masks(torch.tensor([2, 5]), 5)
    assert masks["content"].tolist() == [[False] * 5, [False, True, True, True, False]]
    assert masks["end"].tolist() == [[False, True, False, False, False], [False] * 4 + [True]]
    assert masks["pad"].tolist() == [[False, False, True, True, True], [False] * 5]
    parts = torch.stack([masks[zone] for zone in ("position0", "content", "end", "pad")])
    assert torch.equal(parts.sum(dim=0), torch.ones(2, 5, dtype=torch.long))


def test_means_by_zone() -> None:
    sums = Sums()
    target = torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    z = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]])
    sums.add(z, target, torch.tensor([3]), torch.tensor([[True, True, True, False]]))
    assert sums.norm_ratios()["all"] == pytest.approx(1.0)
    sums.add(3 * z, target, torch.tensor([3]), torch.tensor([[True, True, True, False]]))
    assert sums.norm_ratios() == pytest.approx({"all": 2.0, "position0": 2.0, "content": 2.0, "end": 2.0, "pad": 2.0})
    assert sums.means() == pytest.approx({"all": 0.75, "position0": 0.0, "content": 1.0, "end": 2.0, "pad": 0.0})


def test_retrieval_counts_ranks_in_both_directions_and_ties_against() -> None:
    en = torch.eye(12)
    zh = en.clone()
    zh[[0, 1]] = en[[1, 0]]  # two captions swapped: the first guess is wrong, the second of twelve ties
    found = retrieval(zh, en)
    assert found["zh_to_en"]["R@1"] == pytest.approx(10 / 12)
    assert found["en_to_zh"]["R@1"] == pytest.approx(10 / 12)
    assert retrieval(torch.ones(12, 12), en)["zh_to_en"] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_rate_warms_up_and_decays() -> None:
    train = TrainSettings(lr=1.0, warmup=4, schedule="cosine")
    rates = [rate(train, step, 20) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
    assert {rate(TrainSettings(lr=1.0, warmup=0, schedule="constant"), step, 20) for step in range(20)} == {1.0}


def test_steps_follow_from_epochs_unless_given() -> None:
    assert total_steps(TrainSettings(batch=128, epochs=6), 22606) == 1060
    assert total_steps(TrainSettings(steps=7), 22606) == 7
    assert total_steps(TrainSettings(strategy="ridge"), 22606) == 0


def test_divergence_says_what_to_lower() -> None:
    train = TrainSettings(warmup=50)
    with pytest.raises(DivergedError, match=r"loss is nan at step 30: lower --train.lr \(now 0.0005\)"):
        check({"start": [], "recent": []}, math.nan, 30, train)
    losses: dict[str, list[float]] = {"start": [], "recent": []}
    for step in range(10, 260, 10):
        check(losses, 0.5 if step < 40 else 0.6, step, train)
    with pytest.raises(
        DivergedError, match=r"running mean is 0\.6000, above its 0\.5000 at the start: lower --train\.lr"
    ):
        check(losses, 0.6, 260, train)
