"""A step of training beside transformers' own models: every layer at every position, no cache."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from transformers import AutoTokenizer, ChineseCLIPModel, CLIPTextModel

from tests import encoders
from trainer.base.recipe import CorpusSettings, Recipe, StudentSettings, TeacherSettings, TrainSettings
from trainer.cache import stage as cache
from trainer.corpus import stage as corpus
from trainer.corpus.pairs import read_pairs
from trainer.models.freezing import frozen_depth
from trainer.training.data import caption_batch
from trainer.training.dev import with_pads
from trainer.training.losses import cosine_loss
from trainer.training.setup import open_student
from zhclip.bert import attention

WINDOW, LAYERS, STEP = 77, 2, list(range(24))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Cached captions, for the paper's objective."""
    folder = tmp_path_factory.mktemp("plain")
    train, dev = encoders.corpora(folder)
    models = [str(make(folder / make.__name__)) for make in (encoders.student, encoders.clip_teacher)]
    settings = TrainSettings(start="student", layers=LAYERS, contrast=0.0, pad_positions=None)
    pairs = CorpusSettings(train=str(train), dev=str(dev))
    recipe = Recipe(
        str(folder / "run"), WINDOW, StudentSettings(models[0]), TeacherSettings(models[1]), pairs, train=settings
    )
    corpus.run(recipe)
    cache.run(recipe)
    return recipe


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_attention_by_its_parts_is_torchs(dtype: torch.dtype, bound: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 2, 7, 8, generator=generator) for _ in range(3)]
    keys = torch.rand(3, 1, 1, 7, generator=generator) < 0.5
    keys[..., 0] = True
    fused, parts = ([x.to(kind, copy=True).requires_grad_() for x in tensors] for kind in (torch.float32, dtype))
    q, k, v = fused
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=keys)
    q, k, v = parts
    attended = attention(q, k, v, keys)
    assert attended.dtype == dtype
    wanted.square().sum().backward()
    attended.square().sum().backward()
    assert (attended - wanted).norm() < bound * wanted.norm()
    for one, other in zip(parts, fused, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() < bound * other.grad.norm()


def flat_gradient(layers: torch.nn.Module) -> Tensor:
    """All gradients of the trained parameters, in the order of their names, as one vector."""
    trained = [parameter.grad for _, parameter in sorted(layers.named_parameters()) if parameter.requires_grad]
    return torch.cat([gradient.flatten() for gradient in trained if gradient is not None])


def plain(recipe: Recipe) -> tuple[float, Tensor]:
    """Loss and gradients of the last layers, by transformers alone."""
    pairs = read_pairs(recipe.folder / "corpus" / "train.tsv")[: len(STEP)]
    assert recipe.student.model and recipe.teacher.model
    whole = dict(padding="max_length", max_length=WINDOW, return_tensors="pt")
    zh = AutoTokenizer.from_pretrained(recipe.student.model)([pair.zh for pair in pairs], **whole)
    en = AutoTokenizer.from_pretrained(recipe.teacher.model)([pair.en for pair in pairs], **whole)
    with torch.no_grad():  # without a mask, as Stable Diffusion 1.5 reads it
        goal = CLIPTextModel.from_pretrained(recipe.teacher.model)(input_ids=en["input_ids"]).last_hidden_state
    text = ChineseCLIPModel.from_pretrained(recipe.student.model).text_model.train(False)
    hidden = text(input_ids=zh["input_ids"], attention_mask=zh["attention_mask"]).last_hidden_state
    loss = (1 - cosine_similarity(hidden, goal, dim=-1)).mean()
    loss.backward()
    return loss.item(), flat_gradient(text.encoder.layer[-LAYERS:])


def ours(recipe: Recipe, pads: int | None, seeds: range) -> Iterator[tuple[float, Tensor]]:
    """The same from the cache, as steps of training compute it: one for each seed that positions are drawn by."""
    student, _, cached = open_student(recipe, "cpu")
    depth = frozen_depth(recipe.train, student.depth)
    assert depth is not None
    for seed in seeds:
        student.zero_grad()
        batch = caption_batch(with_pads(cached, len(STEP), pads, seed), STEP)
        z = student(batch["ids"], batch["frozen_hidden"], depth, batch["positions"], batch["flat_index"])[0]
        loss = (cosine_loss(z, batch["target"]) * batch["weights"]).sum(dim=1).mean()
        loss.backward()
        yield loss.item(), flat_gradient(student.bert.encoder.layer[-LAYERS:])


def test_the_gradient_is_that_of_the_plain_loop(recipe: Recipe) -> None:
    _, expected = plain(recipe)
    ((_, gradient),) = ours(recipe, None, range(1))
    assert (expected - gradient).abs().max() < 1e-5 < expected.abs().max() / 100


def test_the_mean_over_drawn_positions_is_that_of_the_plain_loop(recipe: Recipe) -> None:
    loss, expected = plain(recipe)
    losses, gradients = zip(*ours(recipe, 6, range(200)))
    drawn = torch.stack(gradients)
    assert fmean(losses) == pytest.approx(loss, rel=5e-3)
    # Where padded positions differ as much as a random encoder's do, 200 draws tell the gradient's mean to 2 %.
    error = (drawn.var(dim=0) / len(drawn)).sum().sqrt()
    assert (drawn.mean(dim=0) - expected).norm() < 2 * error < 0.05 * expected.norm()
