"""The drawable world: one or two groups of coloured shapes on a plain background, and how both languages say it.

Held out are 100 pairs of objects (a colour and a shape each) that may stand in one picture, and 16 triples of a
material, a colour and a shape: no training caption, in either language, has both objects of such a pair or such a
triple. So is a second set of Chinese words for everything, the unheard synonyms. The words are in words.json. Prompts
written by hand, in phrasings that the grammar has not, are in phrasings.tsv, whose writer did not know the grammar, and
in phrasings_dev.tsv, which was looked at while the grammar was made.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

WORDS = Path(__file__).with_name("words.json")
PHRASINGS, DEV_PHRASINGS = (Path(__file__).with_name(f"{name}.tsv") for name in ("phrasings", "phrasings_dev"))
HELD_OUT_PAIRS, HELD_OUT_TRIPLES = 100, 16
SPLIT_SEED = 2024
TWO_GROUPS = 0.6
"""Share of scenes that show two groups."""
LONGEST = 36
"""Characters of a Chinese caption. No tokenizer makes more tokens of so many than the window holds."""

NAMED = ("size", "colour", "material", "shape")
"""What else is said of a group, in the order of Group's fields."""

Thing = tuple[str, str]
"""A colour and a shape."""


class Group(NamedTuple):
    """One to three equal objects, named in English as words.json names them; material "" is flat colour."""

    number: int
    size: str
    colour: str
    material: str
    shape: str

    @property
    def thing(self) -> Thing:
        """Its colour and shape."""
        return self.colour, self.shape

    @property
    def triple(self) -> tuple[str, str, str]:
        """Its material, colour and shape."""
        return self.material, self.colour, self.shape


class Scene(NamedTuple):
    """What a picture shows. `where`: the relation of `first` to `second`, or the place of `first` if it is alone."""

    first: Group
    second: Group | None
    where: str
    background: str

    @property
    def groups(self) -> tuple[Group, ...]:
        """The one or two groups."""
        return (self.first,) if self.second is None else (self.first, self.second)


class Prompt(NamedTuple):
    """A scene said in both languages."""

    zh: str
    en: str
    scene: Scene


@cache
def words() -> dict[str, Any]:
    """The whole of words.json."""
    content: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))
    return content


@cache
def held_out() -> tuple[frozenset[frozenset[Thing]], frozenset[tuple[str, str, str]]]:
    """The pairs and the triples kept for development; the example of the documentation is one of the pairs."""
    rng = random.Random(SPLIT_SEED)
    things = list(itertools.product(words()["colours"], words()["shapes"]))
    example = frozenset([("red", "star"), ("blue", "square")])
    pairs = [frozenset(pair) for pair in itertools.combinations(things, 2) if frozenset(pair) != example]
    triples = [(material, *thing) for material in words()["materials"] if material for thing in things]
    return (
        frozenset([example, *rng.sample(pairs, HELD_OUT_PAIRS - 1)]),
        frozenset(rng.sample(triples, HELD_OUT_TRIPLES)),
    )


def is_held_out(scene: Scene) -> bool:
    """Whether a pair or a triple in it is kept for development."""
    pairs, triples = held_out()
    return frozenset(group.thing for group in scene.groups) in pairs or any(g.triple in triples for g in scene.groups)


def random_group(rng: random.Random, thing: Thing | None = None, material: str | None = None) -> Group:
    """A group of which all is chosen by `rng` but what is given."""
    colour, shape = thing or (rng.choice(list(words()["colours"])), rng.choice(list(words()["shapes"])))
    material = rng.choice(list(words()["materials"])) if material is None else material
    return Group(rng.randrange(1, 4), rng.choice(list(words()["sizes"])), colour, material, shape)


def place(groups: list[Group], rng: random.Random) -> Scene:
    """A scene of one or two groups, set up by `rng`."""
    kind = "relations" if len(groups) == 2 else "places"
    background = rng.choice(list(words()["backgrounds"]))
    return Scene(groups[0], groups[1] if len(groups) == 2 else None, rng.choice(list(words()[kind])), background)


def random_scene(rng: random.Random, kept: bool) -> Scene:
    """A scene that is (or is not) kept for development."""
    while True:
        groups = [random_group(rng) for _ in range(1 + (rng.random() < TWO_GROUPS))]
        scene = place(groups, rng)
        if len({group.thing for group in groups}) == len(groups) and is_held_out(scene) == kept:
            return scene


def with_article(noun: str) -> str:
    """`red circle` as `a red circle`, `orange cross` as `an orange cross`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def english_group(group: Group) -> str:
    """`two small red wooden crosses`; what is big or flat is said by leaving the word out."""
    noun = words()["plurals"].get(group.shape, f"{group.shape}s") if group.number > 1 else group.shape
    size = "" if group.size == "big" else group.size
    said = " ".join(filter(None, (size, group.colour, group.material, noun)))
    return with_article(said) if group.number == 1 else f"{words()['counts'][group.number - 1][1]} {said}"


def english(scene: Scene, phrasing: int) -> str:
    """The caption of a scene in the English of one phrasing (an index into words.json's list)."""
    second = "" if scene.second is None else english_group(scene.second)
    template: str = phrasings(scene)[phrasing][1]
    return template.format(a=english_group(scene.first), b=second, where=scene.where, g=scene.background)


def phrasings(scene: Scene) -> list[list[str]]:
    """The Chinese and English templates for a scene's number of groups."""
    found: list[list[str]] = words()["phrasings"]["one" if scene.second is None else "two"]
    return found


def english_captions(scene: Scene) -> list[str]:
    """Every English caption of a scene, each once."""
    return list(dict.fromkeys(english(scene, phrasing) for phrasing in range(len(phrasings(scene)))))


def chinese_group(group: Group, rng: random.Random, unheard: bool) -> str:
    """A group in Chinese: its words in an order of words.json, synonyms of training or, `unheard`, the others."""
    said = {name: rng.choice(words()[f"{name}s"][getattr(group, name)][unheard]) for name in NAMED}
    order: str = rng.choice(words()["orders"])
    text = order.format(number=rng.choice(words()["counts"][group.number - 1][0]), **said)
    for unsaid, left in words()["unsaid"]:
        text = text.replace(unsaid, left)
    return text


def chinese(scene: Scene, phrasing: int, rng: random.Random, unheard: bool = False) -> str:
    """The caption of a scene in the Chinese of one phrasing, its synonyms chosen by `rng`."""
    background = rng.choice(words()["backgrounds"][scene.background][unheard])
    groups = [chinese_group(group, rng, unheard) for group in scene.groups]
    template: str = phrasings(scene)[phrasing][0]
    if scene.second is None:
        return template.format(a=groups[0], here=rng.choice(words()["places"][scene.where][unheard]), g=background)
    sides = words()["relations"][scene.where][unheard]
    side = rng.randrange(len(sides) // 2)
    here, there = sides[side], sides[side + len(sides) // 2]
    return template.format(a=groups[0], b=groups[1], here=here, there=there, g=background)


def prompt(scene: Scene, rng: random.Random, unheard: bool = False) -> Prompt:
    """A scene in a phrasing chosen by `rng`, the same one for both languages."""
    while True:
        phrasing = rng.randrange(len(phrasings(scene)))
        said = chinese(scene, phrasing, rng, unheard)
        if len(said) <= LONGEST:
            return Prompt(said, english(scene, phrasing), scene)


def held_out_prompts(unheard: bool = False, seed: int = 0) -> list[Prompt]:
    """132 prompts for painting: each held-out pair once, and each held-out triple twice, alone in its picture."""
    rng = random.Random(seed)
    pairs, triples = held_out()
    scenes = []
    for pair in sorted(map(sorted, pairs)):
        rng.shuffle(pair)
        scenes.append(place([random_group(rng, thing) for thing in pair], rng))
    for material, *thing in sorted(triples) * 2:
        scenes.append(place([random_group(rng, (thing[0], thing[1]), material)], rng))
    return [prompt(scene, rng, unheard) for scene in scenes]


def read_group(said: str) -> Group:
    """`2 small red - circle` as a group."""
    number, size, colour, material, shape = said.split()
    return Group(int(number), size, colour, material.replace("-", ""), shape)


@cache
def hand_written(path: Path = PHRASINGS) -> tuple[Prompt, ...]:
    """The prompts of a TSV whose columns are the Chinese and what it must show."""
    prompts = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        zh, first, second, where, background = line.split("\t")
        scene = Scene(read_group(first), read_group(second) if second else None, where, background)
        prompts.append(Prompt(zh, english(scene, 0), scene))
    return tuple(prompts)
