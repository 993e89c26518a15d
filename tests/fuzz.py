"""Hostile inputs as JSON values, drawn from a seed: a good input and a few changes of it.

Long texts are written as {"*": [text, times]}, deep ones as {"nested": levels}. Cases that found a defect are kept in
tests/data/fuzzed.json and tried again in every run.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).resolve().parent / "data"
ODD_PROMPTS: list[str] = json.loads((DATA / "odd.json").read_text(encoding="utf-8"))
LISTS: dict[str, list[Any]] = json.loads((DATA / "fuzz.json").read_text(encoding="utf-8"))
FOUND: dict[str, list[Any]] = json.loads((DATA / "fuzzed.json").read_text(encoding="utf-8"))
FILES = ("whole", "plain", "skip", "sdxl", "unigram")


def cases(kind: str, count: int, seed: int = 0) -> list[Any]:
    """The cases of a kind that found something, and so many drawn ones, the same in every run."""
    return FOUND.get(kind, []) + [DRAWS[kind](Random(f"{seed} {kind} {number}")) for number in range(count)]


def grow(value: Any) -> Any:
    """The value with its long texts written out."""
    if isinstance(value, dict):
        if list(value) == ["*"]:
            return value["*"][0] * value["*"][1]
        return {key: grow(each) for key, each in value.items()}
    return [grow(each) for each in value] if isinstance(value, list) else value


def dump(value: Any) -> str:
    """JSON with long texts and deep objects written out: deeper ones than json itself writes."""
    text = json.dumps(grow(value))
    return re.sub(r'\{"nested": (\d+)\}', lambda found: '{"a":' * int(found[1]) + "1" + "}" * int(found[1]), text)


def put(tree: Any, dotted: str, value: Any) -> None:
    """Set a value in nested objects; what is no object on the way becomes one."""
    *way, last = dotted.split(".")
    for name in way:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = grow(value)


def change(content: bytes, step: list[Any]) -> bytes:
    """Bytes after a change that `draw_change` drew; places are shares of the length."""
    kind, *given = step
    if kind == "swap":
        one, other = (text.encode("utf-8", "surrogatepass") for text in given)
        return content.replace(one, other)
    at = int(given[0] * len(content))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([given[1]]) + content[at + 1 :]
    if kind == "insert":
        return content[:at] + grow(given[1]).encode("utf-8", "surrogatepass") + content[at:]
    if kind == "drop":
        return content[:at] + content[at + given[1] :]
    return content[:at] + content[at : at + given[1]] * 3 + content[at:]


def draw_change(chance: Random) -> list[Any]:
    """A change of bytes."""
    at = round(chance.random() ** chance.choice([1, 8]), 6)
    kind = chance.choice(["cut", "flip", "insert", "drop", "copy"])
    if kind == "cut":
        return [kind, at]
    if kind == "flip":
        return [kind, at, chance.randrange(256)]
    if kind == "insert":
        return [kind, at, {"*": [chance.choice(LISTS["tokens"]), int(10 ** chance.uniform(0, 4.5))]}]
    return [kind, at, int(10 ** chance.uniform(0, 4))]


def draw_file(chance: Random) -> Any:
    """Changes of an encoder's metadata, tensors and bytes."""
    steps: list[Any] = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        kind = chance.choice(["meta", "meta", "tensor", "vocabulary", "bytes"])
        if kind == "meta":
            steps.append([kind, chance.choice(LISTS["meta"]), chance.choice(LISTS["values"])])
        elif kind == "tensor":
            steps.append([kind, chance.choice(LISTS["tensors"]), chance.choice(LISTS["changes"])])
        else:
            steps.append([kind, *draw_change(chance)])
    return {"base": chance.choice(FILES), "steps": steps}


def draw_prompt(chance: Random) -> Any:
    """A text of odd words, of any characters or of syntax; one of ten is long and of one kind."""
    kind = chance.randrange(10)
    if kind == 0:
        unit = "".join(chance.choices(LISTS["units"], k=chance.randint(1, 3)))
        return {"*": [unit, int(10 ** chance.uniform(1, math.log10(20_000 / len(unit))))]}
    if kind < 4:
        text = "".join(chance.choices([*ODD_PROMPTS, *"():,", "BREAK", "red", "\\("], k=chance.randint(1, 6)))[:300]
    elif kind < 7:
        characters = range(chance.choice([0x250, 0x3100, 0x10000, 0x110000]))
        text = "".join(map(chr, chance.choices(characters, k=chance.randint(1, 120))))
    else:
        text = "".join(chance.choices("(): 1.3ab\u732b,\\", k=chance.randint(1, 40)))
    return json.loads(json.dumps(text))  # joins the halves of a surrogate pair, as on the way to the node


DRAWS = {"files": draw_file, "prompts": draw_prompt}
