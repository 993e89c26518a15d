"""Hostile inputs as JSON values, drawn from a seed and a number: what tests/fuzzer.py tries.

A case says how a good input is changed, so that it is short, can be read, and stays the same when the drawing changes.
Long texts are written as {"*": [text, times]}, deep ones as {"nested": levels}.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).resolve().parent / "data"
ODD: list[str] = json.loads((DATA / "odd.json").read_text(encoding="utf-8"))
# What cases are drawn from: odd values, names of metadata, parts of tokenizers, headers, settings, stretches of text.
LISTS: dict[str, list[Any]] = json.loads((DATA / "fuzz.json").read_text(encoding="utf-8"))
KINDS = ("files", "prompts", "requests", "corpora", "recipes")


def grown(value: Any) -> Any:
    """The value itself, its long texts written out."""
    if isinstance(value, dict) and list(value) == ["*"]:
        return value["*"][0] * value["*"][1]
    if isinstance(value, dict):
        return {key: grown(each) for key, each in value.items()}
    return [grown(each) for each in value] if isinstance(value, list) else value


def dumped(value: Any, **how: Any) -> str:
    """JSON with long texts and deep objects written out: deeper ones than json itself writes."""
    text = json.dumps(grown(value), **how)
    return re.sub(r'\{"nested": ?(\d+)\}', lambda found: '{"a":' * int(found[1]) + "1" + "}" * int(found[1]), text)


def draw(kind: str, seed: int, number: int) -> Any:
    """The case of a kind with this number, the same for one seed in every run."""
    return DRAWS[kind](Random(f"{seed} {kind} {number}"))


def some(chance: Random, most: int) -> int:
    """1 to `most`, one more often than not."""
    return 1 if chance.random() < 0.6 else chance.randint(1, most)


# What the metadata and the tokenizer of a file hold, by dotted names.


def a_file(chance: Random) -> Any:
    """A good encoder and up to three changes of it."""
    steps: list[Any] = []
    for _ in range(some(chance, 3)):
        what = chance.choices(
            ["meta", "text", "tokenizer", "json", "tensor", "header", "bytes"], [8, 1, 7, 1, 5, 4, 4]
        )[0]
        if what == "meta":
            steps.append(
                [
                    what,
                    chance.choice(LISTS["meta"]),
                    *([chance.choice(LISTS["values"])] if chance.random() < 0.9 else []),
                ]
            )
        elif what == "tokenizer":
            value = chance.choice(LISTS["parts"] if chance.random() < 0.5 else LISTS["values"])
            steps.append([what, chance.choice(LISTS["tokenizer"]), *([value] if chance.random() < 0.95 else [])])
        elif what in ("text", "json"):
            steps.append(
                [
                    what,
                    chance.choice(
                        ["", "[", "null", "{}", "1", '{"a":1,"a":2}', {"*": ["[", 50_000]}, {"*": ["9", 5000]}]
                    ),
                ]
            )
        elif what == "tensor":
            steps.append([what, chance.choice(LISTS["tensors"]), chance.choice(LISTS["changes"])])
        elif what == "header":
            where = chance.choice(["__metadata__", chance.choice(LISTS["tensors"])])
            steps.append(
                [
                    what,
                    where,
                    chance.choice(["", *LISTS["entry"]]),
                    chance.choice([*LISTS["values"], "F32", "F8_E4M3", [2**40, 2**40]]),
                ]
            )
        else:
            steps.append([what, *on_bytes(chance, LISTS["bytes"])])
    return {"base": chance.choice(["whole", "plain", "skip"]), "steps": steps}


def on_bytes(chance: Random, tokens: list[Any]) -> list[Any]:
    """A change of bytes; places are shares of the length."""
    at = round(chance.random() ** chance.choice([1, 8]), 6)
    what = chance.choice(["cut", "flip", "insert", "drop", "copy", "swap"])
    if what == "cut":
        return [what, at]
    if what == "flip":
        return [what, at, chance.randrange(256)]
    if what == "insert":
        token = chance.choice(tokens)
        many = isinstance(token, str) and chance.random() < 0.3
        return [what, at, {"*": [token, int(10 ** chance.uniform(1, 4.5))]} if many else token]
    if what == "swap":
        return [what, *chance.sample([token for token in tokens if isinstance(token, str)], 2)]
    return [what, at, int(10 ** chance.uniform(0, 4))]


def changed(content: bytes, step: list[Any]) -> bytes:
    """Bytes after a change that `on_bytes` drew."""
    what, *given = step
    if what == "swap":
        one, other = (text.encode("utf-8", "surrogatepass") for text in given)
        return content.replace(one, other)
    at = int(given[0] * len(content))
    if what == "cut":
        return content[:at]
    if what == "flip":
        return content[:at] + bytes([given[1]]) + content[at + 1 :]
    if what == "insert":
        return content[:at] + grown(given[1]).encode("utf-8", "surrogatepass") + content[at:]
    if what == "drop":
        return content[:at] + content[at + given[1] :]
    return content[:at] + content[at : at + given[1]] * 3 + content[at:]


WORDS = [*ODD, "(", ")", ":1.3)", "\uff1a", "\uff08", " ", ",", "BREAK", "red", "\u732b", "\\(", "embedding:x"]
LONGEST = 20_000  # characters: what a prompt may have
SYNTAX = "(): 1.3ab\u732b,\\"
PLANES = (0x250, 0x3100, 0x10000, 0x110000)  # characters below: Latin, all without ideographs, the first plane, all


def a_prompt(chance: Random) -> str | dict[str, Any]:
    """A text of odd words, of any characters or of syntax; one of twenty is long and of one kind."""
    kind = chance.randrange(20)
    if kind == 0:
        unit = "".join(chance.choices(LISTS["units"], k=some(chance, 3)))
        return {"*": [unit, int(10 ** chance.uniform(1, math.log10(LONGEST / len(unit))))]}
    if kind < 7:
        text = "".join(chance.choices(WORDS, k=chance.randint(1, 6)))[:300]  # the long ones are among the odd ones
    elif kind < 13:
        text = "".join(map(chr, chance.choices(range(chance.choice(PLANES)), k=chance.randint(1, 120))))
    else:
        text = "".join(chance.choices(SYNTAX, k=chance.randint(1, 40)))
    return json.loads(json.dumps(text))  # which joins the halves of a pair, as on the way to the node


def a_request(chance: Random) -> Any:
    """Method, headers and body of a request to the route."""
    body: Any = {
        "file": chance.choice(LISTS["names"][:1] * 12 + LISTS["names"]),
        "text": a_prompt(chance),
        "bilingual": chance.random() < 0.5,
    }
    for _ in range(chance.choice([0, 0, 1, 2])):
        body[chance.choice(["file", "text", "bilingual", "more"])] = chance.choice(LISTS["values"])
    case: dict[str, Any] = {
        "method": "POST",
        "headers": [["Content-Type", LISTS["types"][0]]],
        "body": body,
        "steps": [],
    }
    if chance.random() < 0.3:
        case["headers"][0][1] = chance.choice(LISTS["types"])
    if chance.random() < 0.15:
        case["headers"].append(["Content-Encoding", chance.choice(LISTS["codings"])])
        case["gzip"] = chance.random() < 0.7
    if chance.random() < 0.2:
        case["headers"].append(chance.choice(LISTS["headers"]))
    if chance.random() < 0.05:
        case["method"] = chance.choice(["GET", "PUT", "HEAD", "OPTIONS", "post", "P\x00ST", ""])
    if chance.random() < 0.4:
        case["steps"] = [
            on_bytes(chance, [*LISTS["bytes"], "\\ud800", "\\u0000", "1e999", "NaN"]) for _ in range(some(chance, 3))
        ]
    return case


def a_corpus(chance: Random) -> Any:
    """A good corpus of some format, changes of one of its files' bytes or of what is inside its archive, and a
    source's other fields."""
    from tests.corpora import WHOLE

    source: dict[str, Any] = {}
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        key = chance.choice(["zh", "en", "zh", "en", "split", "weight"])
        values: dict[str, list[Any]] = {"weight": [0.5, 1.0], "split": ["train", "test", "", "train[:1]"]}
        source[key] = chance.choice(values.get(key, LISTS["columns"]))
    steps = [on_bytes(chance, LISTS["corpus"]) for _ in range(some(chance, 3))] if chance.random() < 0.95 else []
    case = {
        "base": chance.choice(list(WHOLE)),
        "file": chance.randrange(9),
        "inside": chance.random() < 0.7,
        "steps": steps,
    }
    if chance.random() < 0.08:
        case["rename"] = chance.choice([".tsv", ".csv", ".jsonl", ".parquet", ".gz", ".tsv.gz", ".xz", ".bz2", ""])
    return case | {"source": source}


def a_recipe(chance: Random) -> Any:
    """A recipe of the repository with changed settings and bytes, or a sweep's grid, and flags beside it."""
    names = [
        path.relative_to(DATA.parents[1]).as_posix() for path in sorted((DATA.parents[1] / "recipes").rglob("*.yaml"))
    ]
    base = chance.choice(names)
    case: dict[str, Any] = {"base": base, "set": {}, "steps": [], "flags": []}
    for _ in range(chance.choice([0, 1, 1, 2])):
        keys = (
            ["rows", "seeds", "settings", "rows.base", "rows.x", "settings.train.lr"]
            if "sweeps" in base
            else LISTS["leaves"]
        )
        case["set"][chance.choice(keys)] = chance.choice([*LISTS["values"], *LISTS["settings"]])
    if chance.random() < 0.5:
        case["steps"] = [on_bytes(chance, LISTS["yaml"]) for _ in range(some(chance, 3))]
    if chance.random() < 0.5 and "sweeps" not in base:
        for _ in range(some(chance, 3)):
            value = chance.choice([*LISTS["values"], *LISTS["settings"]])
            case["flags"].append([chance.choice(LISTS["leaves"]), value if isinstance(value, str) else dumped(value)])
    return case


def a_plant(chance: Random) -> str:
    """What a fuzzer must find: the tests' own fault."""
    return chance.choice(["raises", "burns", "swallows", "dies", "babbles", "is fine", "is refused"])


DRAWS = {"files": a_file, "prompts": a_prompt, "requests": a_request, "corpora": a_corpus, "recipes": a_recipe}
DRAWS["plants"] = a_plant


def put(tree: Any, dotted: str, value: list[Any]) -> None:
    """Set a value in nested objects, or drop it where there is none; what is no object on the way becomes one."""
    *way, last = dotted.split(".")
    for name in way:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    if value:
        tree[last] = grown(value[0])
    else:
        tree.pop(last, None)
