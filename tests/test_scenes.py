"""The demonstration's corpus: different captions, the same every time, nothing held out in it, and short enough."""

import random
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from painter import demo, drawable, figures, scenes
from painter.real_pair import real_pair
from painter.unet import WINDOW
from zhclip.prompt import normalise

MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
PAIRS = 6_000


@pytest.fixture(scope="module")
def corpus() -> scenes.Corpus:
    return scenes.generate(PAIRS, 100)


def has_kept_objects(text: str) -> bool:
    """Whether an English caption names two objects, or a material on one, that are kept for development."""
    words = drawable.words()
    nouns = {shape: shape for shape in words["shapes"]} | {plural: shape for shape, plural in words["plurals"].items()}
    colours, materials = "|".join(words["colours"]), "|".join(words["materials"])
    pattern = rf"({colours}) ({materials}) ({'|'.join(sorted(nouns, key=len, reverse=True))})s?\b"
    found = [(material, colour, nouns[noun]) for colour, material, noun in re.findall(pattern, text)]
    pairs, triples = drawable.held_out()
    return frozenset(thing[1:] for thing in found) in pairs or not triples.isdisjoint(found)


def test_all_pairs_differ(corpus: scenes.Corpus) -> None:
    assert len({pair.zh for pair in corpus.train}) == len({pair.en for pair in corpus.train}) == PAIRS


def test_the_same_seed_writes_the_same_plain_tsv(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        scenes.write(scenes.generate(300, 20, seed=seed), tmp_path / name)
    for file in ("train.tsv", "dev.tsv"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c
    header, *rows = (tmp_path / "a" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "zh\ten" and len(rows) == 300
    assert all(row.count("\t") == 1 and '"' not in row for row in rows)


def test_no_training_caption_has_a_held_out_combination(corpus: scenes.Corpus) -> None:
    assert not [pair for pair in corpus.train if has_kept_objects(pair.en)]
    assert all(has_kept_objects(pair.en) for pair in corpus.dev)


def too_long(window: int, zh: list[str], en: list[str]) -> list[str]:
    """Texts of more tokens than a window has positions."""
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in real_pair(MODELS)]
    tokenizers[1].no_padding()
    tokenizers[1].no_truncation()
    encoded = [
        (text, len(tokens))
        for one, texts in zip(tokenizers, (zh, en))
        for text, tokens in zip(texts, one.encode_batch(texts))
    ]
    return [text for text, tokens in encoded if tokens > window]


def test_everything_fits_the_window(corpus: scenes.Corpus) -> None:
    pairs = corpus.train + corpus.dev
    assert not too_long(WINDOW, [normalise(pair.zh) for pair in pairs], [pair.en for pair in pairs])


def test_the_example_is_of_the_demonstration_and_held_out() -> None:
    stars = drawable.Group(2, "small", "red", "plain", "star")
    square = drawable.Group(1, "big", "blue", "wooden", "square")
    scene = drawable.Scene(stars, square, "above", "gray")
    words, rng = drawable.words(), random.Random(0)
    assert drawable.english(scene, brief=True) == words["prompt_en"]
    assert words["prompt"] in {drawable.chinese(scene, rng, drawable.PLAIN) for _ in range(20_000)}
    assert drawable.is_held_out(scene)


def test_the_demonstration_teaches_its_part_without_what_is_held_out() -> None:
    part = demo.PART.corpus()
    assert not [pair for pair in part.train if has_kept_objects(pair.en)]
    assert all(has_kept_objects(pair.en) for pair in part.dev)
    assert all(pair.zh.startswith(("\u4e00\u4e2a", "\u4e24\u4e2a", "\u4e09\u4e2a")) for pair in part.train)
    prompts = figures.plain_set()["held out"]
    zh = [normalise(said.zh) for said in prompts] + [normalise(pair.zh) for pair in part.train + part.dev]
    assert not too_long(demo.PART.window, zh, [said.en for said in prompts] + [pair.en for pair in part.train])
