"""python benchmarks/emphasis.py --encoder FILE --teacher DIR [--train TSV] [--dev TSV] [--out DIR]

Prompt weights by contrast (zhclip/emphasis.py) beside weights by position, as ComfyUI applies them to CLIP: how much a
weighted word's own score changes in what a diffusion network reads, and how much other words' scores change. Prints
tables in Markdown and draws DIR/weights.png. What is measured and how: docs/weights.md.

FILE is an encoder that was aligned to the teacher in DIR, which is the painter's, all-MiniLM-L6-v2; the corpora are TSV
files with the columns zh and en. Without them, the captions of tests/data: enough to see it run, not to measure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import readout, selectivity, sides, weighted  # noqa: E402 - the project is not installed
from painter import unet  # noqa: E402
from painter.teacher import english_states  # noqa: E402
from trainer.corpus import read  # noqa: E402
from trainer.encoders import Student, load_student  # noqa: E402
from zhclip.artifact import load  # noqa: E402
from zhclip.emphasis import combine, rows  # noqa: E402
from zhclip.tokens import Window  # noqa: E402

CAPTIONS = ROOT / "tests" / "data" / "captions.tsv"
CONTRAST = "Chinese, by contrast"
POSITION = "Chinese, by position"
ORACLE = "Chinese, by position of the English word"
STOCK = "English, by position"
# Okabe and Ito's colours, which all kinds of colour vision tell apart, and a marker each.
STYLES = {CONTRAST: ("#0072B2", "o"), POSITION: ("#D55E00", "s"), ORACLE: ("#CC79A7", "^"), STOCK: ("#000000", "D")}
SEVERAL = (1.5, 2.0)

READ_OUTS = {"attention": readout.attended, "keys and values": readout.keys_and_values}
ReadOut = Callable[[Tensor], Tensor]


def read_captions(english: Student, captions: list[str], layers: list[readout.Layer]) -> dict[str, Tensor]:
    """Both read-outs (N, R) of English captions."""
    seen: dict[str, list[Tensor]] = {name: [] for name in READ_OUTS}
    for at in range(0, len(captions), sides.BATCH):
        states = english.encode(captions[at : at + sides.BATCH])
        for name, read_out in READ_OUTS.items():
            seen[name].append(read_out(states, layers))
    return {name: torch.cat(parts) for name, parts in seen.items()}


def methods(zh: sides.Side, en: sides.Side) -> dict[str, Callable[[float], Tensor]]:
    """Ways of weighting, each from a weight to the conditioning (N, W, D) of all cases."""
    return {
        CONTRAST: zh.by_contrast,
        POSITION: zh.by_position,
        ORACLE: lambda weight: zh.by_position(weight, en.windows),
        STOCK: en.by_position,
        "English, by contrast": en.by_contrast,
        "Chinese, by contrast, each norm kept": zh.by_contrast_keeping_norms,
        "Chinese, by contrast, mean norm kept": zh.by_contrast_keeping_mean_norm,
    }


def unchanged(student: Student, cases: Sequence[weighted.Case]) -> int:
    """In how many cases the prompt with a weight of 1 written out is encoded to the same bits as without brackets."""
    return sum(torch.equal(*map(student.encode_prompt, case.prompts)) for case in cases)


def several(student: Student, cases: Sequence[weighted.Case], attend: ReadOut, probes: readout.Probes) -> str:
    """Two words of a prompt weighted at once, and the whole prompt: one row a weight."""
    first = [list(group)[:2] for _, group in groupby(cases, key=lambda case: case.prompt)]
    first = [pair for pair in first if len(pair) == 2]
    one, others = selectivity.masks([a for a, _ in first], len(probes.bias))
    two, _ = selectivity.masks([b for _, b in first], len(probes.bias))
    plans = {
        "one word": [a.chinese for a, _ in first],
        "two words": [_both(a.chinese, b.chinese) for a, b in first],
        "the whole prompt": [_whole(a.chinese, student.tokens.special.end) for a, _ in first],
    }
    lines = ["| weighted | weight | first word | second word | words that the prompt lacks | norms |", "|---" * 6 + "|"]
    for name, windows in plans.items():
        encoded = sides.encode(student, rows(windows))
        plain = encoded[: len(windows)]
        before = probes.score(attend(plain))
        for weight in SEVERAL:
            z = combine(encoded, sides.at_weight(windows, weight))
            moved = probes.score(attend(z)) - before
            absent = moved[~(one | others)].square().mean().sqrt()
            norms = (z.norm(dim=-1) / plain.norm(dim=-1)).mean()
            lines.append(
                f"| {name} | {weight} | {moved[one].mean():+.3f} | {moved[two].mean():+.3f} | {absent:.3f} "
                f"| {norms:.3f} |"
            )
    return "\n".join(lines)


def _both(a: Window, b: Window) -> Window:
    return Window(a.ids, [max(pair) for pair in zip(a.weights, b.weights)])


def _whole(a: Window, end: int) -> Window:
    length = a.ids.index(end)
    return Window(a.ids, [1.0] + [2.0] * (length - 1) + [1.0] * (len(a.ids) - length))


def draw(figures: dict[str, selectivity.Figures], path: Path) -> None:
    """The weighted word's score, and how far the prompt's other words move, over the weight."""
    picture = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = picture.subplots(1, 2, sharex=True)
    for name, (colour, marker) in STYLES.items():
        each = figures[name]
        low, middle, high = (each.own + each.before).quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
        left.fill_between(selectivity.WEIGHTS, low, high, color=colour, alpha=0.12, linewidth=0)
        left.plot(selectivity.WEIGHTS, middle, color=colour, marker=marker, markersize=4, label=name)
        right.plot(selectivity.WEIGHTS, each.others.mean(dim=1), color=colour, marker=marker, markersize=4)
    left.set(xlabel="weight", ylabel="score", title="The weighted word: median, and the middle half")
    right.set(xlabel="weight", ylabel="change of score", title="The prompt's other words: mean absolute change")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--train", type=Path, default=CAPTIONS, help="captions that the probes are fitted on")
    parser.add_argument("--dev", type=Path, default=CAPTIONS, help="captions that words are weighted in")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--least", type=int, default=40, help="training captions that a word needs for a probe")
    parser.add_argument("--out", type=Path, help="folder for weights.png")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    student = Student.from_artifact(load(options.encoder))
    english = load_student(str(options.teacher), student.tokens.window)
    layers = readout.layers(unet.load(), lambda texts: english_states(options.teacher, texts).float())

    captions = [pair.en for pair in read(str(options.train))]
    present = torch.tensor(weighted.present(captions))
    enough = present.sum(dim=0).ge(options.least)
    known = [word for word, kept in zip(weighted.words(), enough) if kept]
    pairs = list(read(str(options.dev)))
    cases, lost = weighted.cases(pairs, student.tokens, english.tokens, known, options.prompts)
    prompts = [case.prompt for case in cases]
    print(
        f"{len(known)} words with a probe from {len(captions)} captions of {options.train.name}; {len(cases)} weighted "
        f"words in {len(set(prompts))} prompts of {options.dev.name}, {lost} more without a token of their own\n"
        f"weight 1: the same bits in {unchanged(student, cases)} of {len(cases)}"
    )
    zh = sides.Side.of(student, [case.chinese for case in cases])
    en = sides.Side.of(english, [case.english for case in cases])
    without = english.encode([case.english_without for case in cases])
    of_train, of_dev = (read_captions(english, texts, layers) for texts in (captions, [pair.en for pair in pairs]))
    has = torch.tensor(weighted.present([pair.en for pair in pairs]))[:, enough]
    for name, read_out in READ_OUTS.items():

        def see(z: Tensor, read_out: Callable[..., Tensor] = read_out) -> Tensor:
            return torch.cat([read_out(part, layers) for part in z.split(sides.BATCH)])

        probes = readout.Probes.fit(of_train[name], present[:, enough])
        scores = probes.score(of_dev[name])
        ranked = [readout.auc(scores[:, at], has[:, at]) for at in range(len(known)) if 0 < has[:, at].sum() < len(has)]
        print(f"\n{name}: the probes' mean AUC on English captions of {options.dev.name}: {np.mean(ranked):.3f}")
        removal = see(en.full) - see(without)
        figures = {
            way: selectivity.measure(method, see, probes, cases, removal) for way, method in methods(zh, en).items()
        }
        print(selectivity.table(figures, prompts))
        if name == "attention":
            print("", several(student, cases, see, probes), sep="\n")
            if options.out:
                draw(figures, options.out / "weights.png")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
