"""The measuring of prompt weights: a planted world with a known answer, and the script behind docs/weights.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import emphasis, readout, selectivity, weighted
from tests import encoders, small
from trainer.corpus.lines import Row
from zhclip.artifact import SpecialIds
from zhclip.tokens import PromptTokenizer, Window

WORDS, WIDTH, WINDOW = 6, 24, 8


def planted(present: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Conditioning (N, WINDOW, WIDTH) whose mean over positions is the sum of its words' vectors, and some noise."""
    vectors = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(len(present), WINDOW, WIDTH, generator=generator)
    return (present.float() @ vectors)[:, None] + 0.05 * noise


def pooled(z: torch.Tensor) -> torch.Tensor:
    return z.mean(dim=1)


@pytest.fixture
def world() -> tuple[readout.Probes, list[weighted.Case], torch.Tensor, torch.Tensor]:
    """Probes fitted on 500 planted captions, and 40 cases: their encodings with and without the weighted word."""
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(500, WORDS, generator=generator) < 0.4
    probes = readout.Probes.fit(pooled(planted(present, generator)), present)
    window = Window([0] * WINDOW, [1.0] * WINDOW)
    cases = [weighted.Case(at // 2, at % 3, [3, 4], window, window, ("", ""), "") for at in range(40)]
    has = torch.zeros(40, WORDS, dtype=torch.bool)
    has[range(40), [case.word for case in cases]] = True
    has[:, 3:5] = True
    seeds = [torch.Generator().manual_seed(2) for _ in range(2)]
    full = planted(has, seeds[0])
    has[range(40), [case.word for case in cases]] = False
    return probes, cases, full, planted(has, seeds[1])


def test_a_probe_knows_its_word(world) -> None:
    probes, cases, full, without = world
    own, others = selectivity.masks(cases, WORDS)
    scores, less = probes.score(pooled(full)), probes.score(pooled(without))
    assert (scores[own] - 1).abs().max() < 0.15 and (scores[others] - 1).abs().max() < 0.15
    assert scores[~own & ~others].abs().max() < 0.15 and less[own].abs().max() < 0.15
    assert readout.auc(scores[:, 0], own[:, 0]) == 1.0 and readout.auc(-scores[:, 0], own[:, 0]) == 0.0


def test_a_change_of_one_word_is_told_from_a_change_of_all(world) -> None:
    probes, cases, full, without = world
    removal = pooled(full - without)
    prompts = [case.prompt for case in cases]
    more = selectivity.WEIGHTS.index(1.5)

    def one(weight: float) -> torch.Tensor:
        return full + (weight - 1) * (full - without)

    def all_alike(weight: float) -> torch.Tensor:
        return full * weight

    alone = selectivity.measure(one, pooled, probes, cases, removal)
    alike = selectivity.measure(all_alike, pooled, probes, cases, removal)
    assert selectivity.monotone(alone.own) == selectivity.monotone(alike.own) == 1.0
    assert selectivity.monotone(-alone.own) == 0.0
    assert selectivity.interval(alone.own[more], alone.others[more], prompts)[1] > 20
    low, middle, high = sorted(selectivity.interval(alike.own[more], alike.others[more], prompts))
    assert 0.8 < low <= middle <= high < 1.2
    assert alone.along[more].min() > 0.999 and alike.along[more].mean() < 0.9
    torch.testing.assert_close(alike.norms[more], torch.full((40,), 1.5))


def test_the_weight_is_on_the_word() -> None:
    """In both languages; a word that stands twice, or inside another listed word, is left alone."""
    tokens = PromptTokenizer(small.tokenizer(), SpecialIds(start=2, end=3, pad=0, unknown=1), 40)
    pairs = [Row(at, zh, en) for at, (zh, en) in enumerate(small.captions())]
    found, lost = weighted.cases(pairs, tokens, tokens, weighted.words(), 1000)
    assert len(found) > 100 and lost == 0
    for case in found:
        word = weighted.words()[case.word]
        for window, forms in ((case.chinese, word.chinese), (case.english, None)):
            ids = [i for i, w in zip(window.ids, window.weights) if w == 2.0]
            text = tokens.tokenizer.decode(ids).replace("#", "").replace(" ", "")
            assert text in forms if forms else word.english.fullmatch(text), text
        assert word.english.search(case.english_without) is None
        assert case.prompts[1].replace("(", "").replace(":1.0)", "") == case.prompts[0]


def test_the_script_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = small.saved(tmp_path / "encoder.safetensors", teacher_width=384, window=32)
    teacher = encoders.bert_teacher(tmp_path / "teacher", width=384)
    given = ["--encoder", str(encoder), "--teacher", str(teacher), "--least", "3", "--prompts", "12"]
    emphasis.main([*given, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    cases = printed.split("weight 1: the same bits in ")[1].split()
    assert int(cases[0]) == int(cases[2]) > 12
    ways = [line for line in printed.splitlines() if line.startswith(("| Chinese", "| English"))]
    assert len(ways) == 14 and "nan" not in printed
    assert 10_000 < (tmp_path / "weights.png").stat().st_size < 150_000
