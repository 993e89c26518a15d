"""The drawable world: one or two groups of coloured shapes on a plain background, and its captions in both languages.

Held out are 100 pairs of objects (a colour and a shape each) that may stand in one picture, and 16 triples of a
material, a colour and a shape: no training caption, in either language, has both objects of such a pair or such a
triple. The words are in words.json.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trainer.corpus.pairs import Pair, write_pairs

WORDS = Path(__file__).with_name("words.json")
HELD_OUT_PAIRS, HELD_OUT_TRIPLES = 100, 16
SPLIT_SEED = 2024
TWO_GROUPS = 0.6
"""Share of scenes that show two groups."""

Thing = tuple[str, str]
"""A colour and a shape."""


class Group(NamedTuple):
    """One to three equal objects, by words.json's English names; the material "plain" is flat colour."""

    number: int
    size: str
    colour: str
    material: str
    shape: str

    @property
    def thing(self) -> Thing:
        """Its colour and shape."""
        return self.colour, self.shape


class Scene(NamedTuple):
    """One or two groups. where: the relation of the first group to the second, or the place of a single one."""

    groups: tuple[Group, ...]
    where: str
    background: str


@cache
def words() -> dict[str, Any]:
    """The whole of words.json."""
    content: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))
    return content


@cache
def held_out() -> tuple[frozenset[frozenset[Thing]], frozenset[tuple[str, str, str]]]:
    """The held-out pairs and triples; the example of the documentation is one of the pairs."""
    rng = random.Random(SPLIT_SEED)
    things = list(itertools.product(words()["colours"], words()["shapes"]))
    example = frozenset([("red", "star"), ("blue", "square")])
    pairs = [frozenset(pair) for pair in itertools.combinations(things, 2) if frozenset(pair) != example]
    triples = [(material, *thing) for material in words()["materials"] if material != "plain" for thing in things]
    return (
        frozenset([example, *rng.sample(pairs, HELD_OUT_PAIRS - 1)]),
        frozenset(rng.sample(triples, HELD_OUT_TRIPLES)),
    )


def is_held_out(scene: Scene) -> bool:
    """Whether it has a held-out pair or triple."""
    pairs, triples = held_out()
    materials = {(group.material, *group.thing) for group in scene.groups}
    return frozenset(group.thing for group in scene.groups) in pairs or not triples.isdisjoint(materials)


def random_group(rng: random.Random, thing: Thing | None = None, material: str | None = None) -> Group:
    """A random group, of this thing and material if given."""
    colour, shape = thing or (rng.choice(list(words()["colours"])), rng.choice(list(words()["shapes"])))
    material = rng.choice(list(words()["materials"])) if material is None else material
    return Group(rng.randrange(1, 4), rng.choice(list(words()["sizes"])), colour, material, shape)


def arrange(rng: random.Random, *groups: Group) -> Scene:
    """A scene of one or two groups in a random relation or place, on a random background."""
    background = rng.choice(list(words()["backgrounds"]))
    return Scene(groups, rng.choice(list(words()["relations" if len(groups) == 2 else "places"])), background)


def random_scene(rng: random.Random, held_out: bool, two_groups: float = TWO_GROUPS) -> Scene:
    """A random scene, held out or for training. two_groups: share of scenes with two groups."""
    while True:
        groups = [random_group(rng) for _ in range(1 + (rng.random() < two_groups))]
        scene = arrange(rng, *groups)
        if len({group.thing for group in groups}) == len(groups) and is_held_out(scene) == held_out:
            return scene


def held_out_scenes(seed: int = 0) -> list[Scene]:
    """132 scenes to paint: each held-out pair once, and each held-out triple twice, alone in its picture."""
    rng = random.Random(seed)
    pairs, triples = held_out()
    scenes = []
    for pair in sorted(map(sorted, pairs)):
        rng.shuffle(pair)
        scenes.append(arrange(rng, *(random_group(rng, thing) for thing in pair)))
    for material, *thing in sorted(triples) * 2:
        scenes.append(arrange(rng, random_group(rng, (thing[0], thing[1]), material)))
    return scenes


def english_group(group: Group, brief: bool) -> str:
    """`two big red plain crosses`, or if `brief` without the words big and plain: `two red crosses`."""
    noun = words()["plurals"].get(group.shape, f"{group.shape}s") if group.number > 1 else group.shape
    omitted = ("big", "plain") if brief else ()
    text = " ".join(word for word in (group.size, group.colour, group.material, noun) if word not in omitted)
    count = words()["counts"][group.number - 1][1]
    return f"{'an' if count == 'a' and text[0] in 'aeiou' else count} {text}"


def english(scene: Scene, brief: bool = False) -> str:
    """The English caption of a scene. Unless `brief`, each attribute has the same position in every caption."""
    first, *second = (english_group(group, brief) for group in scene.groups)
    return " ".join([first, scene.where, *second, "on a", scene.background, "background"])


def chinese(scene: Scene, rng: random.Random) -> str:
    """The Chinese caption of a scene of two groups, each thing in one of its two words, the first twice as often."""

    def word(kind: str, name: str) -> str:
        return str(rng.choices(words()[kind][name], [2, 1][: len(words()[kind][name])])[0])

    def group_text(group: Group) -> str:
        attributes = ("size", "colour", "material", "shape")
        named = [word(f"{attribute}s", getattr(group, attribute)) for attribute in attributes]
        return "".join([words()["counts"][group.number - 1][0], *named])

    first, second = map(group_text, scene.groups)
    at, of, backdrop = (rng.choice(words()[kind]) for kind in ("at", "of", "backdrops"))
    where, background = word("relations", scene.where), word("backgrounds", scene.background)
    return f"{first}{at}{second}{of}{where}{backdrop.format(g=background)}"


def distinct_pairs(count: int, held_out: bool, rng: random.Random) -> list[Pair]:
    """Captions of two groups, held out or for training, no text among them twice."""
    pairs: list[Pair] = []
    seen: set[str] = set()
    while len(pairs) < count:
        scene = random_scene(rng, held_out, two_groups=1.0)
        texts = chinese(scene, rng), english(scene)
        if seen.isdisjoint(texts):
            pairs.append(Pair(*texts))
            seen.update(texts)
    return pairs


def write_corpus(folder: Path, pairs: int = 1_500, dev: int = 100, seed: int = 0) -> None:
    """Write train.tsv and dev.tsv, which has held-out combinations alone; the same arguments give the same bytes."""
    rng = random.Random(seed)
    for name, count in (("train", pairs), ("dev", dev)):
        write_pairs(folder / f"{name}.tsv", distinct_pairs(count, name == "dev", rng))
