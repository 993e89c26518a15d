"""Calibration's arithmetic: regression, penalty, the positions that stand for all, figures; and the pairs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode

from tests.tree import ROOT
from trainer.report.score import retrieval
from zhclip.calibration import CHOOSE, EVALUATE, FIT, LayerFit, PairScore, residual
from zhclip.device import matmul_precision
from zhclip.positions import Batch, TokenPair, batches
from zhclip.prompt import normalise
from zhclip.ridge import PENALTIES, RidgeSums, choose_penalty, solve
from zhclip.structure import Structure
from zhclip.vectors import sentence_vector

W, S, D = 6, 5, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def summed(x: torch.Tensor, r: torch.Tensor, weights: torch.Tensor) -> RidgeSums:
    """The sums of (N, P, S), (N, P, D) and (N, P), over two batches."""
    sums = RidgeSums.zeros(W, S, D)
    positions = torch.arange(x.shape[1]).expand(len(x), -1)
    for rows in (slice(0, 7), slice(7, None)):
        sums.add(x[rows].double(), r[rows].double(), positions[rows], weights[rows])
    return sums


@pytest.mark.parametrize("positions", [W, 4])
def test_solves_the_weighted_ridge_with_a_bias_for_each_position(positions: int) -> None:
    """Against least squares over rows of [sqrt(w) x, sqrt(w) at the position] and of sqrt(lambda) below them."""
    x, r = draw(20, positions, S, seed=1) + 3, draw(20, positions, D, seed=2)
    weights = torch.rand((20, positions), generator=torch.Generator().manual_seed(3))
    weight, bias = solve(summed(x, r, weights), 0.05)
    root = weights.double().sqrt()[:, :, None]
    position = torch.eye(positions).expand(20, -1, -1).double()
    a = (torch.cat([x.double(), position], dim=2) * root).flatten(0, 1).numpy()
    centre = (x * weights[:, :, None]).sum(dim=0) / weights.sum(dim=0)[:, None]
    spread = ((x - centre).square() * weights[:, :, None]).sum(dim=(0, 1)).mean()
    ridge = np.hstack([np.eye(S) * float((0.05 * spread).sqrt()), np.zeros((S, positions))])
    goal = np.vstack([(r.double() * root).flatten(0, 1).numpy(), np.zeros((S, D))])
    expected = np.linalg.lstsq(np.vstack([a, ridge]), goal, rcond=None)[0]
    np.testing.assert_allclose(weight.T, expected[:S], atol=1e-6)
    np.testing.assert_allclose(bias[:positions], expected[S:], atol=1e-5)
    assert not bias[positions:].any()


class Precisions(TorchFunctionMode):
    """Records the precision that is set at each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.matmul or getattr(func, "__name__", "") in ("matmul", "__matmul__"):
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def test_the_sums_of_products_are_in_fp32_where_tf32_is_set() -> None:
    x, y = draw(8, W, S), draw(8, W, D)
    with matmul_precision("high"), Precisions() as precisions:
        summed(x, y, torch.ones(8, W))
    assert precisions.seen and set(precisions.seen) == {"highest"}


def test_chooses_the_penalty_with_the_least_error_on_the_pairs_left_out() -> None:
    """Against the errors of every penalty's solution, counted pair by pair, from an exact fit to one that is noise."""
    x, left = draw(30, W, S, seed=1), draw(40, W, S, seed=2)
    true, seen = draw(S, D, seed=3), set()
    for noise in (0.0, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0, 30.0):
        r, left_r = x @ true + noise * draw(30, W, D, seed=4), left @ true
        fitted = summed(x, r, torch.ones(30, W))
        chosen = choose_penalty(fitted, summed(left, left_r, torch.ones(40, W)))
        errors = {}
        for penalty in PENALTIES:
            weight, bias = solve(fitted, penalty)
            errors[penalty] = float((left_r - left.double() @ weight.T - bias).square().sum())
        assert chosen == min(errors, key=lambda penalty: errors[penalty])
        seen.add(chosen)
    assert PENALTIES[0] in seen and PENALTIES[-1] in seen and len(seen) > 4


def start() -> Structure:
    return Structure(draw(D, S, seed=5), draw(W, D, seed=6))


def test_the_residual_brings_each_vector_to_its_goal_at_its_own_norm() -> None:
    x, y = draw(3, W, S), 7 * draw(3, W, D, seed=2)
    z = start().apply(x)
    torch.testing.assert_close(normalize(z + residual(start(), x, y), dim=-1), normalize(y, dim=-1))
    torch.testing.assert_close((z + residual(start(), x, y)).norm(dim=-1), z.norm(dim=-1))
    torch.testing.assert_close(residual(start(), x, 3 * z), torch.zeros_like(z), atol=1e-5, rtol=0)


def solved(x: torch.Tensor, y: torch.Tensor, now: Structure) -> LayerFit:
    """A layer over (N, W, S) and (N, W, D): of every four pairs one chooses, one evaluates and two are fitted."""
    layer = LayerFit(now, draw(*y.shape[1:], seed=7))
    for use, at in ((CHOOSE, slice(0, None, 4)), (EVALUATE, slice(1, None, 4)), (FIT, slice(2, None, 4))):
        layer.add(use, x[at], y[at], whole(len(x[at])))
    layer.add(FIT, x[3::4], y[3::4], whole(len(x[3::4])))
    layer.solve()
    return layer


def whole(count: int) -> Batch:
    """A batch of so many pairs, every position of which is text."""
    return Batch([pair(W, W)] * count, W, torch.ones(count, W))


@pytest.mark.parametrize("now", [start(), Structure()], ids=["projection", "none"])
def test_a_clip_that_the_encoder_answers_for_already_leaves_it_alone(now: Structure) -> None:
    x = draw(80, W, S)
    layer = solved(x, 5 * now.apply(x), now)
    new = Structure(layer.new.proj_weight, layer.new.proj_bias)
    torch.testing.assert_close(new.apply(x), now.apply(x), atol=1e-5, rtol=1e-5)
    assert layer.before.loss() == pytest.approx(0, abs=1e-6) and not layer.improves(0.1)


def test_a_turned_clip_is_found_again() -> None:
    """A teacher whose vectors are turned by one matrix: the encoder's error on other captions goes nearly to 0."""
    turn = torch.linalg.qr(draw(D, D, seed=8))[0]
    x, other = draw(400, W, S), draw(50, W, S, seed=9)
    new = solved(x, start().apply(x) @ turn, start()).new
    goal = normalize(start().apply(other) @ turn, dim=-1)

    def loss(structure: Structure) -> float:
        each = 1 - (normalize(structure.apply(other), dim=-1) * goal).sum(dim=-1)
        return float(each[:, 1:].mean())

    assert loss(new) < 0.05 < 0.3 < loss(start())


def test_norms_are_means_over_all_fitted_pairs_and_position_0_takes_no_part() -> None:
    x, y = draw(40, W, S), draw(40, W, D, seed=2)
    layer, changed = solved(x, y, start()), x.clone()
    used = torch.arange(40) % 4 != 1
    old, new = start().tensors(), layer.new.tensors()
    torch.testing.assert_close(new["norms"][:, 0], y[used].norm(dim=-1).mean(dim=0))
    weights = torch.ones(30, W).index_fill(1, torch.tensor([0]), 0.0)
    weight, bias = solve(summed(x[used], residual(start(), x[used], y[used]), weights), layer.penalty)
    torch.testing.assert_close(new["proj_weight"], old["proj_weight"] + weight.float())
    torch.testing.assert_close(new["proj_bias"], old["proj_bias"] + bias.float())
    assert torch.equal(new["position0"], new["empty"][0])
    changed[:, 0] = 100 * draw(40, S, seed=3)
    torch.testing.assert_close(solved(changed, y, start()).new.proj_weight, layer.new.proj_weight)


def test_figures_are_of_the_evaluation_pairs_before_and_after_and_of_a_constant() -> None:
    x, y = draw(40, W, S), draw(40, W, D, seed=2)
    layer = solved(x, y, start())
    mean = normalize(y[torch.arange(40) % 4 != 1], dim=-1).mean(dim=0).expand(10, W, D)
    new = Structure(layer.new.proj_weight, layer.new.proj_bias, layer.new.position0)
    for name, z in (("before", start().apply(x[1::4])), ("after", new.apply(x[1::4])), ("constant", mean)):
        expected = 1 - torch.nn.functional.cosine_similarity(z, y[1::4], dim=-1).mean()
        assert layer.figures()["loss"][name] == pytest.approx(float(expected), rel=1e-5), name


def pair(zh: int, en: int) -> TokenPair:
    return TokenPair([zh] * 77, [en] * 77, zh, en)


PAIRS = [pair(3 + n % 19, 4 + n * 7 % 23) for n in range(150)]


def test_every_text_is_computed_and_every_position_counts_as_often_as_there_are_pairs() -> None:
    assert PAIRS[0].length == 4 and PAIRS[18].length == 21, "the longer text's, whichever it is"
    made = batches(PAIRS, 77, whole_every=8, tokens=200)
    assert sorted(p.length for b in made for p in b.pairs) == sorted(p.length for p in PAIRS)
    counts = torch.zeros(77)
    for batch in made:
        assert batch.positions * len(batch.pairs) <= 200
        counts[: batch.positions] += batch.weights.sum(dim=0)
        for row, one in zip(batch.weights, batch.pairs):
            assert (row[: one.length] == 1).all() and (batch.positions == 77 or not row[one.length :].any())
        assert [len(ids) for ids in batch.ids("zh")] == [batch.positions] * len(batch.pairs)
    torch.testing.assert_close(counts, torch.full((77,), 150.0))
    assert sum(len(b.pairs) for b in made if b.positions == 77) == 19


def test_figures_are_the_trainers() -> None:
    """The mean loss, weighted, and R@1, where a wrong neighbour and a tie count against."""
    some = [pair(3 + n % 4, 3 + n % 3) for n in range(40)]
    batch = Batch(some, W, torch.rand((40, W), generator=torch.Generator().manual_seed(1)))
    y = draw(40, W, D, seed=1)
    z = y + draw(40, W, D)
    score = PairScore()
    score.add(z, y, batch)
    each = 1 - torch.nn.functional.cosine_similarity(z, y, dim=-1)
    assert score.loss() == pytest.approx(float((each * batch.weights).sum() / batch.weights.sum()), rel=1e-5)
    zh, en = sentence_vector(z, batch.mask("zh")), sentence_vector(y, batch.mask("en"))
    assert score.recall() == retrieval(zh, en)["zh_to_en"]["R@1"] and 0.1 < score.recall() < 0.9
    tied = PairScore()
    tied.add(torch.ones(40, W, D), y, batch)
    assert tied.recall() == 0


def test_the_bundled_pairs_are_2000_short_ones_no_two_alike() -> None:
    path = ROOT / "zhclip/pairs.tsv"
    pairs = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]
    for side in zip(*pairs):
        assert len({re.sub(r"\W", "", normalise(text)).lower() for text in side}) == len(side) == 2000
    for zh, en in pairs:
        assert 2 <= len(zh) <= 60 and re.search(r"[\u4e00-\u9fff]", zh), zh
        assert en.isascii() and len(en.split()) <= 40, en
    assert path.stat().st_size < 300_000
