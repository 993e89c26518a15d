"""Figures on cases whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from trainer.base.recipe import TrainSettings
from trainer.cache.shards import Cache
from trainer.report.score import Baselines, measure, retrieval, zone_masks, zone_means
from trainer.training.losses import contrast_loss, cosine_loss
from trainer.training.schedule import DivergedError, check_divergence, learning_rate
from zhclip.vectors import sentence_vector


def test_cosine_loss_is_one_minus_the_cosine() -> None:
    z = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert torch.allclose(cosine_loss(z, target), torch.tensor([[0.0, 1.0, 2.0, 1 - math.sqrt(0.5)]]), atol=1e-6)


def test_contrast_asks_for_the_captions_own_english() -> None:
    en = torch.eye(4)
    centre = torch.zeros(4)
    own = torch.eye(4, dtype=torch.bool)
    assert contrast_loss(en, en, centre, own).max() < 1e-6
    assert contrast_loss(en.roll(1, 0), en, centre, own).min() > 19  # 1 / the temperature of 0.05
    half = contrast_loss(en[2:], en, centre, own[2:])
    assert torch.equal(half, contrast_loss(en, en, centre, own)[2:])
    twice = contrast_loss(en, torch.cat([en, en]), centre, torch.cat([own, own], dim=1))
    assert twice.max() < 1e-6  # the same caption again is no wrong answer


def test_means_by_zone() -> None:
    target = torch.tensor([1.0, 0.0]).expand(2, 4, 2)
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    zones = zone_masks(torch.tensor([3, 3]), 4)
    columns = measure(torch.stack([z, 3 * z]), target, torch.tensor([True, True, True, False]).expand(2, -1))
    assert columns["loss"].tolist() == [[0.0, 1.0, 2.0, 0.0]] * 2
    assert zone_means(columns["loss"], zones) == pytest.approx(
        {"all": 0.75, "position0": 0.0, "content": 1.0, "end": 2.0, "pad": 0.0}
    )
    assert columns["norm"].tolist() == [[1.0] * 4, [3.0] * 4]
    full = zone_masks(torch.tensor([4, 4]), 4)
    assert set(zone_means(columns["loss"], full)) == set(zones) - {"pad"}


def test_retrieval_counts_ranks_in_both_directions_and_ties_against() -> None:
    en = torch.eye(12)
    zh = en.clone()
    zh[[0, 1]] = en[[1, 0]]  # two captions swapped: the first guess is wrong, the second of twelve ties
    found = retrieval(zh, en)
    assert found["zh_to_en"]["R@1"] == pytest.approx(10 / 12)
    assert found["en_to_zh"]["R@1"] == pytest.approx(10 / 12)
    assert retrieval(torch.ones(12, 12), en)["zh_to_en"] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_a_text_without_content_has_a_place_and_no_nan() -> None:
    z = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[False] * 4, [False, True, False, False], [False, True, True, False]])
    vectors = sentence_vector(z, mask)
    assert torch.equal(vectors[0], torch.zeros(8)) and torch.allclose(vectors[1], normalize(z[1, 1], dim=-1))
    assert retrieval(vectors, vectors)["zh_to_en"]["R@1"] == 1.0
    columns = measure(z, z, torch.arange(4)[None] < torch.tensor([[2], [3], [4]]))
    assert torch.isfinite(columns["content"]).all()


def test_nearest_by_shards_is_the_nearest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(1000, 24, generator=generator) + 3  # a common part, which centring takes out
    target = torch.randn(1000, 4, 8, generator=generator)
    shards: list[dict[str, torch.Tensor]] = []
    for rows in torch.arange(1000).split(300):  # the last one is shorter
        column = {
            "zh_sentence": pooled[rows],
            "target": target[rows].half().flatten(0, 1),
            "count": torch.full(rows.shape, 4),
        }
        shards.append(column)
    x, y = pooled[:, None].expand(-1, 4, -1).double(), normalize(target, dim=-1).double()
    sums = {"xx": torch.einsum("nws,nwt->st", x, x), "xy": torch.einsum("nws,nwd->sd", x, y)}
    baselines = Baselines(
        Cache(shards, 300, sums | {"x": x.sum(0), "y": y.sum(0), "weight": torch.full((4,), 1000.0).double()}), 1e-3
    )
    queries = torch.randn(200, 24, generator=generator) + 3
    centre = pooled.mean(dim=0)
    plain = (normalize(queries - centre, dim=-1) @ normalize(pooled - centre, dim=-1).T).argmax(dim=1)
    assert baselines.nearest(queries) == plain.tolist()
    untrained = queries[:, None].expand(-1, 4, -1)
    predicted = baselines.predict(untrained, baselines.nearest(queries))
    assert torch.equal(predicted["nearest"], target[plain].half().float())
    assert "untrained" not in predicted  # 24 wide, and the targets are 8


def test_rate_warms_up_and_decays() -> None:
    train = TrainSettings(lr=1.0, warmup=4, schedule="cosine")
    rates = [learning_rate(train, step, 20) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
    late = TrainSettings(lr=1.0, warmup=4, schedule="wsd")
    assert [learning_rate(late, step, 104) for step in (0, 4, 74, 89, 104)] == pytest.approx([0.2, 1.0, 1.0, 0.5, 0.0])
    assert {learning_rate(TrainSettings(lr=1.0, warmup=0, schedule="constant"), step, 20) for step in range(20)} == {
        1.0
    }


def test_divergence_names_the_flags_to_lower() -> None:
    train = TrainSettings(warmup=50)
    with pytest.raises(DivergedError, match=r"--train.lr"):
        check_divergence([0.5, math.nan], 30, train)
    losses = [0.5 if step < 40 else 0.6 for step in range(10, 270, 10)]
    check_divergence(losses[:-1], 250, train)
    with pytest.raises(DivergedError, match=r"--train.lr"):
        check_divergence(losses, 260, train)
