"""The corpus as a person reads it: one page, which needs no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape

from ..base.html import document, table
from .lines import Row
from .pairs import Cleaned, Pair

SHOWN = 12
EACH = 5
BARS = 24


def page(summary: dict[str, dict], splits: Mapping[str, Cleaned]) -> str:
    """HTML: for each split its counts, lengths and examples."""
    return document("Corpus", "".join(section(name, counted, splits[name]) for name, counted in summary.items()))


def section(name: str, counted: dict, split: Cleaned) -> str:
    """One split."""
    total = len(split.pairs) - split.twins + len(split.rejects)
    sentences = {
        "more were left out by their source's weight": sum(counted.get("left_out_by_weight", {}).values()),
        "of the kept are twins in simplified characters": split.twins,
    }
    said = [f"{len(split.pairs):,} kept, {len(split.rejects):,} rejected of {total:,} rows."]
    said += [f"{count:,} {sentence}." for sentence, count in sentences.items() if count]
    if "unknown_tokens" in counted:
        said.append(f"{counted['unknown_tokens']:.2%} of the Chinese tokens are unknown to the student's vocabulary.")
    out = [f"<h2>{escape(name)}</h2>\n<p>{' '.join(said)} Every rejected row stands in rejects.tsv.</p>\n"]
    if len(counted["read"]) > 1:
        out.append(table([(source, f"{rows:,}") for source, rows in counted["read"].items()], ("source", "rows read")))
    if split.rejects:
        reasons = sorted(counted["rejected"].items(), key=lambda item: (-item[1], item[0]))
        shares = [(reason, f"{rows:,}", f"{rows / max(1, total):.2%}") for reason, rows in reasons]
        out.append(table(shares, ("rejected because", "rows", "share")))
    if any(pair.zh for pair in split.pairs):
        out.append(f"<h3>Chinese, characters</h3>{histogram([len(pair.zh) for pair in split.pairs])}\n")
    out.append(f"<h3>English, words</h3>{histogram([len(pair.en.split()) for pair in split.pairs])}\n")
    out.append(f"<h3>Kept</h3>{examples(split.pairs)}")
    if split.rejects:
        out += ["<h3>Rejected</h3>", table(rejected(split.rejects), ("reason", "zh", "en"))]
    return "".join(out)


def examples(pairs: list[Pair]) -> str:
    """A few of them, from all parts of the file."""
    return table([(p.zh, p.en) for p in pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]], ("zh", "en"))


def rejected(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """A few rows of every reason."""
    seen: Counter[str] = Counter()
    out = []
    for row in rows:
        seen[row.fault] += 1
        if seen[row.fault] <= EACH:
            out.append((row.fault, row.zh[:200], row.en[:300]))
    return sorted(out, key=lambda cells: cells[0])


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
