"""Write the demonstration's corpus: captions of scenes in Chinese and English, and two held-out sets.

python -m painter.scenes OUT_DIR [--pairs 45000] [--drawable 0.15] [--seed 0]

writes train.tsv, dev_combinations.tsv (its combinations of words never occur together in train.tsv, whatever the
phrasing) and dev_words.tsv (each pair has a word that never occurs in train.tsv). UTF-8, header zh<TAB>en, no quoting.
No caption occurs twice, in either language, and the same arguments give the same bytes.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from painter import captions, drawable

DEV_PAIRS = 500
PATIENCE = 200_000
"""Draws in a row without a new pair, after which the grammar counts as exhausted."""


class Pair(NamedTuple):
    """One row of a corpus."""

    zh: str
    en: str


class Corpus(NamedTuple):
    """The three files."""

    train: list[Pair]
    dev_combinations: list[Pair]
    dev_words: list[Pair]


def drawable_pairs(held_out: bool, rng: random.Random, manner: drawable.Manner, two_groups: float) -> Iterator[Pair]:
    """Endless captions of the drawable world, on one side of its split."""
    while True:
        said = drawable.prompt(drawable.random_scene(rng, held_out, two_groups), rng, manner)
        yield Pair(said.zh, said.en)


def caption_pairs(wanted: Callable[[captions.Phrase], bool], rng: random.Random) -> Iterator[Pair]:
    """Endless captions of the wider grammar that pass a test."""
    while True:
        said = captions.caption(rng)
        if wanted(said):
            yield Pair(said.zh, said.en)


def different(pairs: Iterator[Pair], count: int) -> list[Pair]:
    """The first `count` pairs of which both sides are new. ValueError when the grammar has not so many."""
    kept: list[Pair] = []
    seen: set[str] = set()
    misses = 0
    while len(kept) < count:
        pair = next(pairs)
        if seen.isdisjoint(pair):
            kept.append(pair)
            seen.update(pair)
            misses = 0
            continue
        misses += 1
        if misses > PATIENCE:
            raise ValueError(
                f"The grammar gave only {len(kept)} different pairs of {count}. Ask for fewer (--pairs, --drawable)."
            )
    return kept


def mixed(drawn: Iterator[Pair], told: Iterator[Pair], count: int, share: float, rng: random.Random) -> list[Pair]:
    """`count` pairs of which `share` is drawable, shuffled."""
    drawn_count = round(count * share)
    pairs = different(drawn, drawn_count) + different(told, count - drawn_count)
    rng.shuffle(pairs)
    return pairs


def generate(pairs: int, share: float, seed: int = 0) -> Corpus:
    """A corpus of `pairs` training pairs, `share` (0..1) of them drawable, with 500 pairs in each dev set."""
    if pairs < 1 or not 0 <= share <= 1:
        raise ValueError(f"Expected --pairs of 1 or more and --drawable from 0 to 1, got {pairs} and {share}.")
    rng = random.Random(seed)
    drawn, kept = (drawable_pairs(held_out, rng, drawable.HEARD, drawable.TWO_GROUPS) for held_out in (False, True))
    return Corpus(
        mixed(drawn, caption_pairs(lambda said: not (said.new_word or said.new_combination), rng), pairs, share, rng),
        mixed(kept, caption_pairs(lambda said: said.new_combination and not said.new_word, rng), DEV_PAIRS, share, rng),
        different(caption_pairs(lambda said: said.new_word, rng), DEV_PAIRS),
    )


def generate_plain(pairs: int, dev: int, seed: int = 0) -> Corpus:
    """A corpus of plainly said pictures of two groups alone."""
    rng = random.Random(seed)
    train, kept = (drawable_pairs(held_out, rng, drawable.PLAIN, 1.0) for held_out in (False, True))
    return Corpus(different(train, pairs), different(kept, dev), [])


def write(corpus: Corpus, folder: Path) -> None:
    """Write the three files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in corpus._asdict().items():
        part = folder / f"{name}.tsv.part"
        rows = [("zh", "en"), *pairs]
        part.write_text("".join(f"{zh}\t{en}\n" for zh, en in rows), encoding="utf-8", newline="\n")
        part.replace(folder / f"{name}.tsv")


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.scenes", description=__doc__.partition("\n")[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--pairs", type=int, default=45_000, help="training pairs")
    parser.add_argument("--drawable", type=float, default=0.15, help="share of pairs that the painter can draw")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        corpus = generate(options.pairs, options.drawable, options.seed)
    except ValueError as error:
        sys.exit(str(error))
    write(corpus, options.out_dir)
    print(*(f"{options.out_dir / name}.tsv: {len(pairs)} pairs" for name, pairs in corpus._asdict().items()), sep="\n")


if __name__ == "__main__":
    main()
