"""The corpus as a person reads it: one page, which needs no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from ..base import STYLE, table

Texts = Sequence[tuple[str, str]]
SHOWN = 12
EACH = 5
BARS = 24


def page(summary: dict[str, dict], kept: Mapping[str, Texts], rejects: dict[str, list[tuple[str, str, str]]]) -> str:
    """HTML: for each split its counts, lengths and examples. `rejects` are (reason, zh, en)."""
    body = [section(name, counted, kept[name], rejects[name]) for name, counted in summary.items()]
    head = f'<meta charset="utf-8"><title>Corpus</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><h1>Corpus</h1>\n{"".join(body)}</body></html>\n'


def section(name: str, counted: dict, kept: Texts, rejects: list[tuple[str, str, str]]) -> str:
    """One split."""
    left_out = sum(counted.get("left_out_by_weight", {}).values())
    composed = counted.get("composed", 0)
    clean, made = kept[: len(kept) - composed], kept[len(kept) - composed :]
    total = len(clean) - counted.get("simplified_twins", 0) + len(rejects)
    out = [f"<h2>{escape(name)}</h2>\n<p>{len(clean):,} kept, {len(rejects):,} rejected of {total:,} rows."]
    if left_out:
        out.append(f" {left_out:,} more were left out by their source's weight.")
    if counted.get("simplified_twins"):
        out.append(f" {counted['simplified_twins']:,} of the kept are twins in simplified characters.")
    if composed:
        out.append(f" {composed:,} more in prompt style were composed from them.")
    if "unknown_tokens" in counted:
        out.append(f" {counted['unknown_tokens']:.2%} of the Chinese tokens are unknown to the student's vocabulary.")
    out.append(" Every rejected row stands in rejects.tsv.</p>\n")
    if len(counted["read"]) > 1:
        out.append(table([(source, f"{rows:,}") for source, rows in counted["read"].items()], ("source", "rows read")))
    reasons = sorted(counted["rejected"].items(), key=lambda item: (-item[1], item[0]))
    if reasons:
        lines = [(reason, f"{rows:,}", f"{rows / max(1, total):.2%}") for reason, rows in reasons]
        out.append(table(lines, ("rejected because", "rows", "share")))
    if any(zh for zh, _ in kept):
        out.append(f"<h3>Chinese, characters</h3>{histogram([len(zh) for zh, _ in kept])}\n")
    out.append(f"<h3>English, words</h3>{histogram([len(en.split()) for _, en in kept])}\n")
    out += ["<h3>Kept</h3>", table(some(clean), ("zh", "en"))]
    if made:
        out += ["<h3>Composed</h3>", table(some(made), ("zh", "en"))]
    if rejects:
        out += ["<h3>Rejected</h3>", table(examples(rejects), ("reason", "zh", "en"))]
    return "".join(out)


def some(texts: Texts) -> Texts:
    """A few of them, from all parts of the file."""
    return texts[:: max(1, len(texts) // SHOWN)][:SHOWN]


def examples(rejects: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """A few rows of every reason."""
    shown: Counter[str] = Counter()
    out = []
    for reason, zh, en in rejects:
        shown[reason] += 1
        if shown[reason] <= EACH:
            out.append((reason, zh[:200], en[:300]))
    return sorted(out, key=lambda row: row[0])


def histogram(lengths: list[int]) -> str:
    """An SVG of how many texts are how long; the last bar holds all that are longer."""
    if not lengths:
        return ""
    ordered = sorted(lengths)
    width = max(1, -(-ordered[int(0.99 * (len(ordered) - 1))] // BARS))
    bars = Counter(min(length // width, BARS) for length in lengths)
    tallest = max(bars.values())
    parts = []
    for at in range(BARS + 1):
        height = 100 * bars[at] / tallest
        label = f"{at * width}{'+' if at == BARS else ''}"
        parts.append(f'<rect x="{24 * at}" y="{104 - height:.1f}" width="21" height="{height:.1f}">')
        parts.append(f"<title>{label}: {bars[at]:,}</title></rect>")
        parts.append(f'<text x="{24 * at}" y="118">{label}</text>' if at % 2 == 0 else "")
    middle = ordered[len(ordered) // 2]
    box = f'viewBox="0 0 {24 * (BARS + 1)} 122" width="100%" role="img"'
    return f"<svg {box}>{''.join(parts)}</svg><p>Median {middle}.</p>"
