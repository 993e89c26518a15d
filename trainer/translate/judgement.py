"""What becomes of the translations: pairs, rejects with their reasons, a summary, and a page to read."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sacrebleu.metrics import CHRF
from tqdm import tqdm

from ..base import SettingsError, TranslateSettings, public_name, write_text
from .checks import fault, flags

EXAMPLES = 3  # of each reason, on the page
CHRF_SCORE = CHRF()


@dataclass(frozen=True)
class Judged:
    """A caption, its translation, and what was said about it. `score`: chrF of its back-translation, if any."""

    file: str
    row: int
    en: str
    zh: str
    reason: str
    flags: tuple[str, ...] = ()
    score: float | None = None


@dataclass
class Tally:
    """Counts over all rows, and what the page shows of them."""

    rows: int = 0
    pairs: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    score_sum: float = 0.0
    scored: int = 0
    sample: list[Judged] = field(default_factory=list)
    examples: dict[str, list[Judged]] = field(default_factory=dict)

    def add(self, one: Judged, size: int, chance: random.Random) -> None:
        """Count one row; keep it for the page by reservoir sampling, which needs no second look at the others."""
        self.rows += 1
        if one.score is not None:
            self.scored += 1
            self.score_sum += one.score
        if one.reason:
            self.rejected[one.reason] += 1
            shown = self.examples.setdefault(one.reason, [])
            shown += [one] * (len(shown) < EXAMPLES)
            return
        self.pairs += 1
        self.flagged.update(one.flags)
        place = self.pairs - 1 if self.pairs <= size else chance.randrange(self.pairs)
        if place < size:
            self.sample[place : place + 1] = [one]


def judge(settings: TranslateSettings, out: Path, shards: list[list[Path]]) -> None:
    """Write OUT and, beside it, OUT.rejects.tsv, OUT.summary.json and OUT.sample.md. `shards`: forth and, if any, back.

    Raises SettingsError when no pair is left.
    """
    rejects = Path(f"{out}.rejects.tsv")
    tally, chance = Tally(), random.Random(settings.seed)
    temporary = {path: path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in (out, rejects)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        pairs, rejected = (
            opened.enter_context(p.open("w", encoding="utf-8", newline="\n")) for p in temporary.values()
        )
        pairs.write("zh\ten\n")
        rejected.write("file\trow\treason\tzh\ten\n")
        for one in judged(settings, shards):
            tally.add(one, settings.sample, chance)
            if one.reason:
                rejected.write(f"{one.file}\t{one.row}\t{one.reason}\t{one.zh}\t{one.en}\n")
            else:
                pairs.write(f"{one.zh}\t{one.en}\n")
    for path, written in temporary.items():
        written.replace(path)
    for left in out.parent.glob(f"{out.name}.*.tmp"):  # of runs that were killed
        left.unlink(missing_ok=True)
    write_text(Path(f"{out}.sample.md"), page(settings, out, tally))
    write_text(Path(f"{out}.summary.json"), json.dumps(summary(settings, tally), indent=1))
    counts = ", ".join(f"{reason} {n}" for reason, n in tally.rejected.most_common()) or "none"
    print(f"translate: {tally.pairs} pairs of {tally.rows} captions; rejected: {counts}")
    if not tally.pairs:
        raise SettingsError(
            f"{out}: not one usable pair of {tally.rows} captions; read {out}.sample.md for the reasons"
        )


def judged(settings: TranslateSettings, shards: list[list[Path]]) -> Iterator[Judged]:
    """Every caption in the source's order, with its verdict."""
    for paths in tqdm(shards, desc="check", unit="shard"):
        records = [read_shard(path) for path in paths]
        if len({len(part) for part in records}) > 1:
            raise SettingsError(f"{paths[-1]}: it has other rows than {paths[0]}; delete it and run translate again")
        for parts in zip(*records):
            yield verdict(settings, {key: value for part in parts for key, value in part.items()})


def verdict(settings: TranslateSettings, record: dict[str, Any]) -> Judged:
    """The checks on one record; the first fault counts."""
    en, zh = record["en"], record["zh"]
    reason = record["fault"] or fault(en, zh, settings.min_ratio, settings.max_ratio)
    score = None
    if not reason and "back" in record:
        score = round(CHRF_SCORE.sentence_score(record["back"].lower(), [en.lower()]).score, 2)
        reason = "back-translation" if score < settings.back_threshold else ""
    return Judged(record["file"], record["row"], en, zh, reason, tuple(flags(en, zh)), score)


def read_shard(path: Path) -> list[dict[str, Any]]:
    """A shard's records. Raises SettingsError when the file is damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except (ValueError, OSError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); delete it and run translate again") from error


def summary(settings: TranslateSettings, tally: Tally) -> dict[str, Any]:
    """Counts, and the settings, whose local paths are reduced to their names."""
    used = asdict(settings)
    for name in ("source", "out", "model", "back_model"):
        used[name] = public_name(used[name])
    found: dict[str, Any] = {"rows": tally.rows, "pairs": tally.pairs}
    found |= {"rejected": dict(sorted(tally.rejected.items())), "flagged": dict(sorted(tally.flagged.items()))}
    if tally.scored:
        found["mean back-translation chrF"] = round(tally.score_sum / tally.scored, 2)
    return found | {"settings": used}


def page(settings: TranslateSettings, out: Path, tally: Tally) -> str:
    """The sample page, in Markdown."""
    lines = [f"# {out.name}", "", f"{tally.pairs} pairs of {tally.rows} captions by {public_name(settings.model)}."]
    if tally.scored:
        lines.append(f"Mean chrF of {tally.scored} back-translations: {tally.score_sum / tally.scored:.1f} of 100.")
    lines += ["", "## Rejected", "", "| reason | rows | share |", "|---|---|---|"]
    lines += [f"| {reason} | {n} | {n / tally.rows:.2%} |" for reason, n in tally.rejected.most_common()]
    lines += ["", "## Kept, with a flag", "", "| flag | pairs |", "|---|---|"]
    lines += [f"| {flag} | {n} |" for flag, n in tally.flagged.most_common()]
    lines += [
        "",
        f"## {len(tally.sample)} random pairs",
        "",
        "| English | Chinese | flags | chrF |",
        "|---|---|---|---|",
    ]
    lines += [_line(one) for one in tally.sample]
    for reason, shown in sorted(tally.examples.items()):
        lines += ["", f"## Rejected: {reason}", "", "| English | Chinese | flags | chrF |", "|---|---|---|---|"]
        lines += [_line(one) for one in shown]
    return "\n".join(lines) + "\n"


def _line(one: Judged) -> str:
    score = "" if one.score is None else f"{one.score:.0f}"
    en, zh = (text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for text in (one.en, one.zh))
    return f"| {en} | {zh} | {', '.join(one.flags)} | {score} |"
