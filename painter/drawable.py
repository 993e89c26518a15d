"""The drawable world: one or two groups of coloured shapes on a plain background, and how both languages say it.

Held out are 100 pairs of objects (a colour and a shape each) that may stand in one picture, and 16 triples of a
material, a colour and a shape: no training caption, in either language, has both objects of such a pair or such a
triple. So is a second list of Chinese words for everything, the unheard synonyms. The words are in words.json.
Prompts written by hand, in phrasings that the grammar has not, are in phrasings.tsv, whose writer did not know the
grammar.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

WORDS = Path(__file__).with_name("words.json")
PHRASINGS = Path(__file__).with_name("phrasings.tsv")
HELD_OUT_PAIRS, HELD_OUT_TRIPLES = 100, 16
SPLIT_SEED = 2024
TWO_GROUPS = 0.6
"""Share of scenes that show two groups."""
LONGEST = 36
"""Characters of a Chinese caption. No tokenizer makes more tokens of so many than the window holds."""

SLOTS = {"verb": "verbs", "at": "at", "of": "of", "it": "pronouns"}
"""What phrasings are filled with, whatever the scene, and its list in words.json."""

NAMED = ("size", "colour", "material", "shape")
"""What else is said of a group, in the order of Group's fields."""

Thing = tuple[str, str]
"""A colour and a shape."""


class Manner(NamedTuple):
    """How Chinese says a scene.

    of: which of a thing's two lists in words.json its word comes from; words: only so many of a list, None for all;
    phrasings: which of them. The others are shares: of groups with attributes in an unusual order, with the number
    last, and of attributes after a comma; of captions that say of both groups what both are, that have an opener, that
    have the background within, and of the others those that begin with it.
    """

    of: int = 0
    words: int | None = None
    phrasings: slice = slice(None)
    shuffled: float = 0.5
    number_after: float = 0.3
    after: float = 0.08
    shared: float = 0.4
    opened: float = 0.25
    between: float = 0.1
    before: float = 0.5


HEARD = Manner()
"""As training says things."""
UNHEARD = Manner(of=1)
"""In words that training never has."""
PLAIN = Manner(0, 2, slice(4, 5), 0, 0, 0, 0, 0, 0, 0)
"""Each thing in its two commonest words, each picture in one phrasing."""


class Group(NamedTuple):
    """One to three equal objects, named in English as words.json names them; material plain is flat colour."""

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
    """Groups of shapes. `where`: the relation of `first` to `second`, or the place of `first` if it is alone."""

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
    triples = [(material, *thing) for material in words()["materials"] if material != "plain" for thing in things]
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


def random_scene(rng: random.Random, held_out: bool, two_groups: float = TWO_GROUPS) -> Scene:
    """A scene on one side of the split: held out, or for training."""
    while True:
        groups = [random_group(rng) for _ in range(1 + (rng.random() < two_groups))]
        scene = place(groups, rng)
        if len({group.thing for group in groups}) == len(groups) and is_held_out(scene) == held_out:
            return scene


def with_article(noun: str) -> str:
    """`red circle` as `a red circle`, `orange cross` as `an orange cross`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def english_group(group: Group, brief: bool) -> str:
    """`two big red plain crosses`, or `brief`: `two red crosses`, where big and plain go without saying."""
    noun = words()["plurals"].get(group.shape, f"{group.shape}s") if group.number > 1 else group.shape
    known = ("big", "plain") if brief else ()
    text = " ".join(word for word in (group.size, group.colour, group.material, noun) if word not in known)
    return with_article(text) if group.number == 1 else f"{words()['counts'][group.number - 1][1]} {text}"


def english(scene: Scene, brief: bool = False) -> str:
    """The English caption of a scene. Unless `brief`, each word of it has a place of its own, whatever the scene."""
    first, *second = (english_group(group, brief) for group in scene.groups)
    return " ".join([first, scene.where, *second, "on a", scene.background, "background"])


def word(kind: str, name: str, rng: random.Random, manner: Manner) -> str:
    """A Chinese word for a thing. Those of training come by Zipf's law, the first of its list most often."""
    known = words()[kind][name][manner.of][: manner.words]
    zipf = [1 / rank for rank in range(1, len(known) + 1)] if manner.of == HEARD.of else None
    return str(rng.choices(known, zipf)[0])


def chinese_group(group: Group, rng: random.Random, manner: Manner, shared: str) -> str:
    """A group in Chinese, its attributes before the noun or after a comma, without the one that is said of both."""
    chosen = {name: word(f"{name}s", getattr(group, name), rng, manner) for name in NAMED}
    number = rng.choice(words()["counts"][group.number - 1][0][: manner.words])
    attributes = [name for name in NAMED[:-1] if name != shared]
    if rng.random() < manner.shuffled:
        rng.shuffle(attributes)
    after = [name for name in attributes if chosen[name] and rng.random() < manner.after]
    noun = "".join(chosen[name] for name in attributes if name not in after) + chosen["shape"]
    text = noun + number if rng.random() < manner.number_after else number + noun
    return "\uff0c".join([text, *(chosen[name] for name in after)])


def chinese_core(scene: Scene, rng: random.Random, manner: Manner) -> str:
    """A scene without its background, in Chinese."""
    pick = {name: rng.choice(words()[kind][: manner.words]) for name, kind in SLOTS.items()}
    if scene.second is None:
        group = chinese_group(scene.first, rng, manner, "")
        here = word("places", scene.where, rng, manner)
        return str(rng.choice(words()["phrasings"]["one"][manner.phrasings]).format(a=group, here=here, **pick))
    shared, of_both = said_of_both(scene, rng, manner)
    a, b = (chinese_group(group, rng, manner, shared) for group in scene.groups)
    sides = words()["relations"][scene.where][manner.of]
    opposite = len(sides) // 2
    side = rng.randrange(min(opposite, manner.words or opposite))
    kind = "shape" if scene.first.shape != scene.second.shape else "colour"
    this, that = (word(f"{kind}s", getattr(group, kind), rng, manner) for group in scene.groups)
    sweep, back = map(rng.choice, words()["sweeps"][scene.where])
    core = rng.choice(words()["phrasings"]["two"][manner.phrasings])
    pick |= {"here": sides[side], "there": sides[side + opposite]}
    return str(core.format(a=a, b=b, this=this, that=that, sweep=sweep, back=back, **pick)) + of_both


def said_of_both(scene: Scene, rng: random.Random, manner: Manner) -> tuple[str, str]:
    """An attribute that two groups share and how it is said of both at the end; "" and "" for none."""
    first, second = scene.groups
    alike = [name for name in NAMED[:-1] if getattr(first, name) == getattr(second, name)]
    shared = rng.choice(alike) if alike and rng.random() < manner.shared else ""
    common = word(f"{shared}s", getattr(first, shared), rng, manner) if shared else ""
    return (shared, f"\uff0c{rng.choice(words()['both'])}{common}") if common else ("", "")


def chinese(scene: Scene, rng: random.Random, manner: Manner = HEARD) -> str:
    """A scene in Chinese, all of how it is said chosen by `rng`."""
    core = chinese_core(scene, rng, manner)
    background = word("backgrounds", scene.background, rng, manner)
    before, after = (
        rng.choice(words()["backdrops"][side][: manner.words]).format(g=background) for side in ("before", "after")
    )
    opener = rng.choice(words()["openers"]) if rng.random() < manner.opened else ""
    if rng.random() < manner.between and "\uff0c" in core:
        return opener + core.replace("\uff0c", f"{after}\uff0c", 1)
    return opener + (f"{before}{core}" if rng.random() < manner.before else f"{core}{after}")


def prompt(scene: Scene, rng: random.Random, manner: Manner = HEARD) -> Prompt:
    """A scene in both languages, in Chinese of no more than LONGEST characters."""
    while True:
        zh = chinese(scene, rng, manner)
        if len(zh) <= LONGEST:
            return Prompt(zh, english(scene), scene)


def held_out_prompts(manner: Manner = HEARD, seed: int = 0) -> list[Prompt]:
    """132 prompts for painting: each held-out pair once, and each held-out triple twice, alone in its picture."""
    rng = random.Random(seed)
    pairs, triples = held_out()
    scenes = []
    for pair in sorted(map(sorted, pairs)):
        rng.shuffle(pair)
        scenes.append(place([random_group(rng, thing) for thing in pair], rng))
    for material, *thing in sorted(triples) * 2:
        scenes.append(place([random_group(rng, (thing[0], thing[1]), material)], rng))
    return [prompt(scene, rng, manner) for scene in scenes]


def read_group(text: str) -> Group:
    """`2 small red plain circle` as a group."""
    number, size, colour, material, shape = text.split()
    return Group(int(number), size, colour, material, shape)


@cache
def hand_written() -> tuple[Prompt, ...]:
    """The prompts of phrasings.tsv, whose columns are the Chinese and what it must show."""
    prompts = []
    for line in PHRASINGS.read_text(encoding="utf-8").splitlines()[1:]:
        zh, first, second, where, background = line.split("\t")
        scene = Scene(read_group(first), read_group(second) if second else None, where, background)
        prompts.append(Prompt(zh, english(scene), scene))
    return tuple(prompts)
