"""The drawable world: what is drawn reads back, nothing held out is trained on, and everything fits the window."""

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest

from painter import drawable, picture, reader, unet
from painter.real_pair import real_pair
from trainer.models.student import load_student
from zhclip.prompt import normalise

MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
KINDS = ("sizes", "colours", "materials", "shapes")
NAMED = (*KINDS, "backgrounds", "relations", "places")


@pytest.fixture(scope="module")
def encoders() -> tuple[Path, Path]:
    return real_pair(MODELS)


def drawn(count: int, seed: int) -> list[drawable.Scene]:
    """Random scenes, half of them held out."""
    rng = random.Random(seed)
    return [drawable.random_scene(rng, held_out=bool(i % 2)) for i in range(count)]


def test_every_clean_picture_reads_back() -> None:
    rng = random.Random(1)
    for scene in drawn(200, 1):
        assert reader.read_picture(picture.render(scene, rng)) == scene


def test_every_object_reads_back() -> None:
    rng = random.Random(2)
    turns = itertools.cycle(itertools.product((1, 2, 3), drawable.words()["places"], drawable.words()["backgrounds"]))
    for look in reader.looks():
        count, where, background = next(turns)
        scene = drawable.Scene(look._replace(number=count), None, where, background)
        assert reader.read_picture(picture.render(scene, rng)) == scene


def test_noisy_pictures_read_back() -> None:
    rng, noise = random.Random(3), np.random.default_rng(3)
    right = []
    for scene in drawn(100, 3):
        clean = picture.render(scene, rng)
        right += reader.compare_scenes(
            reader.read_picture(clean + noise.normal(0, 0.1, clean.shape).astype(np.float32)), scene
        )
    assert np.mean([good for _, good in right]) > 0.995


def test_scores_count_each_attribute() -> None:
    group = drawable.Group(2, "small", "red", "wooden", "star")
    scene = drawable.Scene(group, group._replace(number=3, colour="blue", shape="heart"), "above", "white")
    near = scene._replace(first=group._replace(number=1, material="plain"), background="black")
    pictures = np.stack([picture.render(each, random.Random(4)) for each in (scene, near)])
    shares = reader.score(pictures, [scene, scene])
    assert shares["number"] == shares["material"] == 0.75 and shares["background"] == shares["scenes"] == 0.5
    assert shares["size"] == shares["colour"] == shares["shape"] == shares["where"] == 1
    assert shares["attributes"] == pytest.approx(21 / 24)


def test_a_group_that_is_not_there_shows_nothing() -> None:
    first, second = (drawable.Group(1, "big", colour, "plain", "star") for colour in ("red", "blue"))
    alone = drawable.Scene(first, None, "at the top", "white")
    compared = reader.compare_scenes(alone, drawable.Scene(first, second, "above", "white"))
    assert [good for _, good in compared] == [False, True] + [True] * 5 + [False] * 5


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError):
        reader.read_picture(np.zeros((16, 16, 3), np.float32))


def test_held_out_combinations_are_apart() -> None:
    pairs, triples = drawable.held_out()
    rng = random.Random(5)
    for scene in (drawable.random_scene(rng, held_out=False) for _ in range(2000)):
        assert frozenset(group.thing for group in scene.groups) not in pairs
        assert triples.isdisjoint(group.triple for group in scene.groups)
    prompts = drawable.held_out_prompts()
    assert len(prompts) == 132 == len({prompt.en for prompt in prompts})
    assert all(drawable.is_held_out(prompt.scene) for prompt in prompts)


def test_unheard_words_are_not_in_training() -> None:
    rng = random.Random(6)
    heard = {drawable.prompt(drawable.random_scene(rng, False), rng).zh for _ in range(3000)}
    assert len(heard) > 2900
    # Some are a shorter form of a word that training says, and lie within it.
    unheard = [word for name in NAMED for entry in drawable.words()[name].values() for word in entry[1] if word]
    inside = {word for name in NAMED for entry in drawable.words()[name].values() for word in entry[0]}
    new = [word for word in unheard if not any(word in known for known in inside)]
    assert len(new) > 0.85 * len(unheard)
    assert not [word for word in new if any(word in text for text in heard)]
    said, again = drawable.held_out_prompts(), drawable.held_out_prompts(drawable.UNHEARD)
    assert all(a.scene == b.scene and a.zh != b.zh for a, b in zip(said, again, strict=True))


def test_hand_written_prompts_say_what_they_must_show() -> None:
    prompts = drawable.hand_written()
    words = drawable.words()
    assert len({prompt.zh for prompt in prompts}) == len(prompts) >= 200
    for zh, _, scene in prompts:
        for group in scene.groups:
            assert words["colours"][group.colour][0][0][0] in zh, zh
            for name in ("material", "shape"):
                assert any(word in zh for word in words[f"{name}s"][getattr(group, name)][0]), zh
        assert words["backgrounds"][scene.background][0][0][0] in zh, zh


def test_everything_fits_the_window(encoders: tuple[Path, Path]) -> None:
    rng = random.Random(7)
    prompts = [drawable.prompt(drawable.random_scene(rng, False), rng) for _ in range(2000)]
    assert not [prompt.zh for prompt in prompts if re.search(r"[()\[\]\uff08\uff09]", prompt.zh)], "prompt weights"
    prompts += [*drawable.held_out_prompts(drawable.UNHEARD), *drawable.hand_written()]
    student, teacher = (load_student(str(folder), 64).tokens for folder in encoders)
    assert max(student.length(normalise(prompt.zh)) for prompt in prompts) <= unet.WINDOW
    assert max(teacher.length(prompt.en) for prompt in prompts) <= unet.WINDOW
