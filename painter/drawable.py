"""The drawable world: two coloured shapes in a relation on a plain background, and how both languages say it.

A combination is an unordered pair of objects. Fifty combinations are held out: no training caption, in either
language and in any order, relation or background, has both of their objects. The words are in scenes.json.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

GRAMMAR_FILE = Path(__file__).with_name("scenes.json")
HELD_OUT = 50
SPLIT_SEED = 2024


class Thing(NamedTuple):
    """One object, named in English as scenes.json names it."""

    colour: str
    shape: str


class Scene(NamedTuple):
    """What a picture shows: `first` is above or left of `second`."""

    first: Thing
    second: Thing
    relation: str
    background: str


class Prompt(NamedTuple):
    """A scene said in both languages."""

    zh: str
    en: str
    scene: Scene


@cache
def grammar() -> dict[str, Any]:
    """The whole of scenes.json."""
    content: dict[str, Any] = json.loads(GRAMMAR_FILE.read_text(encoding="utf-8"))
    return content


@cache
def things() -> tuple[Thing, ...]:
    """The 24 objects: every colour with every shape."""
    words = grammar()["drawable"]
    return tuple(Thing(colour, shape) for colour in words["colours"] for shape in words["shapes"])


@cache
def held_out_combinations() -> frozenset[frozenset[Thing]]:
    """The combinations kept for development; the example of the documentation is one of them."""
    pairs = list(itertools.combinations(things(), 2))
    random.Random(SPLIT_SEED).shuffle(pairs)
    example = (Thing("red", "circle"), Thing("blue", "square"))
    chosen = [pair for pair in pairs if set(pair) != set(example)][: HELD_OUT - 1]
    return frozenset(frozenset(pair) for pair in [example, *chosen])


def scenes(held_out: bool) -> list[Scene]:
    """All scenes whose combination is (or is not) held out, in a fixed order."""
    words = grammar()["drawable"]
    kept = held_out_combinations()
    return [
        Scene(first, second, relation, background)
        for first, second in itertools.permutations(things(), 2)
        if (frozenset((first, second)) in kept) == held_out
        for relation in words["relations"]
        for background in words["backgrounds"]
    ]


def with_article(noun: str) -> str:
    """`red circle` as `a red circle`, `orange cross` as `an orange cross`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def english(scene: Scene, phrasing: int) -> str:
    """The caption of a scene in the English of one phrasing (an index into scenes.json's list)."""
    first, second = " ".join(scene.first), " ".join(scene.second)
    template: str = grammar()["drawable"]["phrasings"][phrasing][1]
    return template.format(
        a=first,
        b=second,
        a_a=with_article(first),
        a_b=with_article(second),
        relation=scene.relation,
        g=scene.background,
    )


def english_captions(scene: Scene) -> list[str]:
    """Every English caption of a scene, each once."""
    phrasings = range(len(grammar()["drawable"]["phrasings"]))
    return list(dict.fromkeys(english(scene, phrasing) for phrasing in phrasings))


def chinese(scene: Scene, phrasing: int, rng: random.Random) -> str:
    """The caption of a scene in the Chinese of one phrasing, its synonyms chosen by `rng`."""
    words = grammar()["drawable"]
    side = rng.randrange(2)
    sides = words["relations"][scene.relation]
    template: str = words["phrasings"][phrasing][0]
    return template.format(
        a=rng.choice(words["colours"][scene.first.colour]) + rng.choice(words["shapes"][scene.first.shape]),
        b=rng.choice(words["colours"][scene.second.colour]) + rng.choice(words["shapes"][scene.second.shape]),
        here=sides[side],
        there=sides[side + 2],
        g=words["backgrounds"][scene.background],
    )


def prompt(scene: Scene, rng: random.Random) -> Prompt:
    """A scene in a phrasing chosen by `rng`, the same one for both languages."""
    phrasing = rng.randrange(len(grammar()["drawable"]["phrasings"]))
    return Prompt(chinese(scene, phrasing, rng), english(scene, phrasing), scene)


def held_out_prompts(seed: int = 0) -> list[Prompt]:
    """100 prompts for painting: each held-out combination in both orders, relations and backgrounds in turn."""
    rng = random.Random(seed)
    words = grammar()["drawable"]
    settings = list(itertools.product(words["relations"], words["backgrounds"]))
    kept = held_out_combinations()
    orders = [pair for pair in itertools.permutations(things(), 2) if frozenset(pair) in kept]
    return [prompt(Scene(*pair, *settings[i % len(settings)]), rng) for i, pair in enumerate(orders)]
