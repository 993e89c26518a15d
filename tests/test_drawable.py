"""The drawable world: pictures read back, nothing held out is trained on, and captions fit the window."""

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest

from painter import demo, drawable, paint, picture, reader
from painter.real_pair import real_pair
from trainer.corpus.pairs import Pair, read_pairs
from trainer.models.student import load_student
from zhclip.prompt import normalise

MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
WORDS = drawable.words()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Pair]]:
    folder = tmp_path_factory.mktemp("captions")
    drawable.write_corpus(folder)
    return {name: read_pairs(folder / f"{name}.tsv") for name in ("train", "dev")}


def random_scenes(count: int, seed: int) -> list[drawable.Scene]:
    """Random scenes, half of them held out."""
    rng = random.Random(seed)
    return [drawable.random_scene(rng, held_out=bool(i % 2)) for i in range(count)]


def test_clean_pictures_read_back() -> None:
    """Random scenes, and every object."""
    rng, places = random.Random(1), itertools.product((1, 2, 3), WORDS["places"], WORDS["backgrounds"])
    alone = [
        drawable.Scene((look._replace(number=count),), where, background)
        for look, (count, where, background) in zip(reader.looks(), itertools.cycle(places))
    ]
    for scene in random_scenes(200, 1) + alone:
        assert reader.read_picture(picture.render(scene, rng)) == scene


def test_noisy_pictures_read_back() -> None:
    rng, noise = random.Random(3), np.random.default_rng(3)
    right = []
    for scene in random_scenes(100, 3):
        clean = picture.render(scene, rng)
        noisy = clean + noise.normal(0, 0.1, clean.shape).astype(np.float32)
        right += reader.compare_scenes(reader.read_picture(noisy), scene)
    assert np.mean([good for _, good in right]) > 0.995


def test_scores_count_each_attribute() -> None:
    group = drawable.Group(2, "small", "red", "wooden", "star")
    second = group._replace(number=3, colour="blue", shape="heart")
    scene = drawable.Scene((group, second), "above", "white")
    near = drawable.Scene((group._replace(number=1, material="plain"), second), "above", "black")
    pictures = np.stack([picture.render(each, random.Random(4)) for each in (scene, near)])
    shares = reader.score(pictures, [scene, scene])
    assert shares["number"] == shares["material"] == 0.75 and shares["background"] == shares["scenes"] == 0.5
    assert shares["size"] == shares["colour"] == shares["shape"] == shares["where"] == 1
    assert shares["attributes"] == pytest.approx(21 / 24)


def test_a_missing_group_shows_nothing() -> None:
    first, second = (drawable.Group(1, "big", colour, "plain", "star") for colour in ("red", "blue"))
    alone = drawable.Scene((first,), "at the top", "white")
    compared = reader.compare_scenes(alone, drawable.Scene((first, second), "above", "white"))
    assert [good for _, good in compared] == [False, True] + [True] * 5 + [False] * 5


def test_held_out_scenes_are_each_pair_and_triple() -> None:
    scenes = drawable.held_out_scenes()
    assert len(scenes) == 132 == len(set(map(drawable.english, scenes))) and all(map(drawable.is_held_out, scenes))
    stars = drawable.Group(2, "small", "red", "plain", "star")
    square = drawable.Group(1, "big", "blue", "wooden", "square")
    example, rng = drawable.Scene((stars, square), "above", "gray"), random.Random(0)
    assert drawable.english(example, brief=True) == WORDS["prompt_en"] and drawable.is_held_out(example)
    assert WORDS["prompt"] in {drawable.chinese(example, rng) for _ in range(20_000)}


def names_held_out(text: str) -> bool:
    """Whether an English caption names a held-out pair of objects, or a held-out material on one."""
    nouns = {shape: shape for shape in WORDS["shapes"]} | {plural: shape for shape, plural in WORDS["plurals"].items()}
    colours, materials = "|".join(WORDS["colours"]), "|".join(WORDS["materials"])
    pattern = rf"({colours}) ({materials}) ({'|'.join(sorted(nouns, key=len, reverse=True))})s?\b"
    objects = [(material, colour, nouns[noun]) for colour, material, noun in re.findall(pattern, text)]
    pairs, triples = drawable.held_out()
    return frozenset(thing[1:] for thing in objects) in pairs or not triples.isdisjoint(objects)


def test_the_corpus_is_distinct_and_the_same_every_time(corpus: dict[str, list[Pair]], tmp_path: Path) -> None:
    train = corpus["train"]
    assert len({pair.zh for pair in train}) == len({pair.en for pair in train}) == len(train) == 1_500
    assert not any(names_held_out(pair.en) for pair in train)
    assert all(names_held_out(pair.en) for pair in corpus["dev"])
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        drawable.write_corpus(tmp_path / name, 300, 20, seed)
    a, b, c = ((tmp_path / name / "train.tsv").read_bytes() for name in "abc")
    assert a == b != c


def test_captions_fit_the_window(corpus: dict[str, list[Pair]]) -> None:
    scenes, prompts = paint.held_out_prompts()
    pairs = [*corpus["train"], *corpus["dev"], *map(Pair, prompts, map(drawable.english, scenes))]
    student, teacher = (load_student(str(folder), 64).tokens for folder in real_pair(MODELS))
    assert max(student.length(normalise(pair.zh)) for pair in pairs) <= demo.WINDOW
    assert max(teacher.length(pair.en) for pair in pairs) <= demo.WINDOW
