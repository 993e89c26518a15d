"""How the time of every function that reads a prompt grows with its length: `python -m benchmarks.prompts`.

Each function reads prompts that once took the square of their length, of 1,000 and 10,000 characters, and the one that
took it longest, or --all, of 100,000 and 1,000,000 too. Printed are CPU seconds, and the exponent between the last two
lengths: 1 is linear, and n log n is some 1.1. The nodes refuse more than 100,000 characters, the count under the prompt
box more than 20,000.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable

from tests import small
from zhclip import languages
from zhclip.clauses import clauses
from zhclip.prompt import cut, normalise, parse, parts
from zhclip.tokens import PromptTokenizer

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
LEAST = 0.05  # seconds, below which an exponent is noise


def repeated(text: str) -> Callable[[int], str]:
    """Text of n characters."""
    return lambda n: (text * (n // len(text) + 1))[:n]


PROMPTS: dict[str, Callable[[int], str]] = {
    "captions": repeated("\u4e00\u53ea\u7ea2\u8272\u7684\u732b, a red cat on a blue sofa. "),
    "Han": repeated("\u4e00\u53ea\u7ea2\u8272\u7684\u732b"),
    "nested brackets": lambda n: "(" * (n // 2) + ")" * (n // 2),
    "nested weights": lambda n: "(" * (n // 6) + "a" + ":1.1)" * (n // 6),
    "open brackets": repeated("("),
    "closed brackets": lambda n: "(" * (n // 3) + "a" * (n // 3) + ")" * (n // 3 - 1),
    "weighted spans": repeated("(\u732b:1.2)\u72d7"),
    "spans of one weight": repeated("(\u732b:1)"),
    "one weighted span": lambda n: f"({'cat ' * (n // 4)}:1.2)",
    "wildcards without end": repeated("-__a"),
    "wildcards": repeated("__a__,"),
    "tags without end": repeated("<a:"),
    "embeddings": repeated("embedding:."),
    "a long Latin word": repeated("a"),
    "a word of two weights": repeated("(a:1.2)b"),
    "quotation marks": repeated('\u732b "cat dog" '),
    "quotation marks alone": repeated('"'),
    "languages in turn": repeated("\u732b, red cat, "),
    "combining marks": lambda n: "a" + "\u0301\u0323" * (n // 2),
    "hidden characters between marks": repeated("\u0301\x00\u0323\x00"),
    "white space": repeated(" \n"),
    "digits": repeated("1,000"),
    "line breaks": repeated("\u732b\n"),
    "BREAK": repeated("BREAK "),
}


def functions() -> dict[str, Callable[[str], object]]:
    """Every function that a prompt goes through."""
    tokens = PromptTokenizer.from_artifact(small.artifact())
    return {
        "normalise": normalise,
        "parse": parse,
        "parts": parts,
        "clauses": clauses,
        "route": languages.route,
        "spans": languages.spans,
        "cut": lambda text: cut(list(text), 75),
        "windows": tokens.windows,
        "weighted_windows": tokens.weighted_windows,
        "unknown": tokens.unknown,
        # What POST /zhclip/count does, and so the line under the prompt box.
        "count": lambda text: [tokens.weighted_windows(segment.prompt) for segment in languages.read(text)[0]],
    }


def seconds(read: Callable[[str], object], text: str) -> float:
    """CPU seconds of one call, without Python's collector, whose own work grows in steps."""
    gc.collect()
    gc.disable()
    begin = time.process_time()
    read(text)
    spent = time.process_time() - begin
    gc.enable()
    return spent


def main() -> None:
    """Print the table, the worst prompt of each function with every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every prompt, not each function's worst alone")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="characters of the longest prompt")
    arguments = parser.parse_args()
    lengths = [length for length in LENGTHS if length <= arguments.longest]
    print("| function | prompt |", *(f"{length:,} |" for length in lengths), "exponent |")
    print("|---|---|" + "---:|" * (len(lengths) + 1))
    for name, read in functions().items():
        found = {kind: [seconds(read, make(length)) for length in lengths[:2]] for kind, make in PROMPTS.items()}
        worst = max(found, key=lambda kind: found[kind][-1])
        for kind in found if arguments.all else [worst]:
            times = found[kind] + [seconds(read, PROMPTS[kind](length)) for length in lengths[2:]]
            print(
                f"| {name} | {kind} |", *(f"{each:.4f} |" for each in times), exponent(times, lengths), "|", flush=True
            )


def exponent(times: list[float], lengths: list[int]) -> str:
    """Of the growth between the last two lengths."""
    if times[-1] < LEAST or times[-2] <= 0:
        return "-"
    return f"{math.log(times[-1] / times[-2]) / math.log(lengths[-1] / lengths[-2]):.2f}"


if __name__ == "__main__":
    main()
