"""What becomes of the translations: pairs, rejects with their reasons, a summary, and a page to read."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sacrebleu.metrics import CHRF
from tqdm import tqdm

from ..base.files import replacing, write_text
from ..base.html import markdown_table
from ..base.recipe import SettingsError
from ..base.settings import public_name
from ..base.stage_settings import TranslateSettings
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
    tally, chance = Tally(), random.Random(settings.seed)
    with replacing(out) as pairs, replacing(Path(f"{out}.rejects.tsv")) as rejects:
        pairs.write(b"zh\ten\n")
        rejects.write(b"file\trow\treason\tzh\ten\n")
        for one in judged(settings, shards):
            tally.add(one, settings.sample, chance)
            if one.reason:
                rejects.write(f"{one.file}\t{one.row}\t{one.reason}\t{one.zh}\t{one.en}\n".encode())
            else:
                pairs.write(f"{one.zh}\t{one.en}\n".encode())
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
    counts: dict[str, Any] = {"rows": tally.rows, "pairs": tally.pairs}
    counts |= {"rejected": dict(sorted(tally.rejected.items())), "flagged": dict(sorted(tally.flagged.items()))}
    if tally.scored:
        counts["mean back-translation chrF"] = round(tally.score_sum / tally.scored, 2)
    paths = {name: public_name(getattr(settings, name)) for name in ("source", "out", "model", "back_model")}
    return counts | {"settings": asdict(settings) | paths}


def page(settings: TranslateSettings, out: Path, tally: Tally) -> str:
    """The sample page, in Markdown."""
    said = f"{tally.pairs} pairs of {tally.rows} captions by {public_name(settings.model)}."
    if tally.scored:
        said += f"\nMean chrF of {tally.scored} back-translations: {tally.score_sum / tally.scored:.1f} of 100."
    shares = [(reason, str(rows), f"{rows / tally.rows:.2%}") for reason, rows in tally.rejected.most_common()]
    flagged = [(flag, str(pairs)) for flag, pairs in tally.flagged.most_common()]
    tables = {
        "Rejected": markdown_table(shares, ("reason", "rows", "share")),
        "Kept, with a flag": markdown_table(flagged, ("flag", "pairs")),
        f"{len(tally.sample)} random pairs": _examples(tally.sample),
    }
    tables |= {f"Rejected: {reason}": _examples(some) for reason, some in sorted(tally.examples.items())}
    return "\n\n".join([f"# {out.name}", said, *(f"## {title}\n\n{table}" for title, table in tables.items())]) + "\n"


def _examples(judged: list[Judged]) -> str:
    rows = []
    for one in judged:
        en, zh = (text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for text in (one.en, one.zh))
        rows.append((en, zh, ", ".join(one.flags), "" if one.score is None else f"{one.score:.0f}"))
    return markdown_table(rows, ("English", "Chinese", "flags", "chrF"))
