"""The inspector's findings as a text and as a picture of 1024 pixels' width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from . import drawing

if TYPE_CHECKING:
    from ..zhclip.languages import LanguageSpan
    from .host.attention import Agreement
    from .reading import Token
    from .report import Predictor

WIDE = 976  # and a margin of 24 on both sides
TITLE, HEAD = 26, 19
WARNED = "#fde8d8"
LANGUAGES = {
    "zh": ("read by ZhCLIP", drawing.BLUE),
    "en": ("read by the checkpoint's own CLIP where ZhCLIP Text Encode has it, else by ZhCLIP", drawing.ORANGE),
    "break": ("begins a new window", drawing.FAINT),
}
SCORED = {
    "aligned": "this encoder",
    "ridge": "ridge map, no gradient",
    "nearest": "nearest training caption",
    "constant": "constant per position",
    "untrained": "untrained student",
}
OTHERS = ("empty prompt", "another caption")
AGREEMENT_IS = (
    "Cosine of the layer's outputs for the same queries, averaged: 1 is what the English prompt gives. The prompt "
    "should lie above both floors."
)


@dataclass(frozen=True)
class Findings:
    """All that the inspector found. `text` and `english` are the prompts as typed; `unknown` the pieces that the
    vocabulary lacks; `room` the tokens that fit in a window; `nearest` captions with their cosines."""

    file: str
    teacher: str
    layer: str
    warnings: list[str]
    text: str
    spans: list[LanguageSpan]
    windows: list[list[Token]]
    room: int
    unknown: list[str]
    scores: list[Predictor]
    english: str = ""
    agreement: Agreement | None = None
    nearest: list[tuple[str, float]] = field(default_factory=list)
    captions_by: str = ""


def agreement_table(agreement: Agreement) -> tuple[list[str], list[str], list[list[float]]]:
    """Rows, columns and values: the Chinese prompt at each noise level, then each floor over all levels. The last row
    is the mean of the layers."""
    values = agreement.values  # (layers, levels, [English, Chinese, *OTHERS])
    means = values.mean(dim=1)  # (layers, rows)
    table = [[*map(float, v[:, 1]), *map(float, m[2:])] for v, m in zip(values, means)]
    average = [sum(column) / len(column) for column in zip(*table)]
    columns = [f"prompt, sigma {sigma:.1f}" for sigma in agreement.sigmas] + [f"floor: {other}" for other in OTHERS]
    return [*agreement.layers, "mean"], columns, [*table, average]


def window_title(number: int, window: list[Token], room: int) -> str:
    """`Window 1: 12 of 75 tokens`."""
    return f"Window {number}: {len(window)} of {room} tokens"


def to_text(findings: Findings) -> str:
    """The report for a text box or a file."""
    lines = [f"ZhCLIP Inspector: {findings.file}", f"Teacher: {findings.teacher}", f"Layer in use: {findings.layer}"]
    lines += [f"Warning: {warning}" for warning in findings.warnings]
    lines += ["", f"Prompt: {findings.text}", "", "Spans (language, weight, text):"]
    lines += [f"  {span.language}  {span.weight:g}  {span.text.strip()}" for span in findings.spans] or ["  none"]
    for number, window in enumerate(findings.windows, 1):
        shown = " ".join(token.text if token.known else f"[unknown: {token.text}]" for token in window)
        lines += ["", window_title(number, window, findings.room), f"  {shown or '(the empty prompt)'}"]
    lines += ["", f"Not in the vocabulary: {' '.join(findings.unknown) or 'nothing'}"]
    if findings.agreement:
        rows, columns, values = agreement_table(findings.agreement)
        lines += ["", f"Attention agreement with: {findings.english}", AGREEMENT_IS, "\t".join(["layer", *columns])]
        lines += ["\t".join([row, *(f"{value:.3f}" for value in cells)]) for row, cells in zip(rows, values)]
    if findings.nearest:
        lines += ["", f"Nearest captions (cosine), read by {findings.captions_by}:"]
        lines += [f"  {cosine:.3f}  {caption}" for caption, cosine in findings.nearest]
    if findings.scores:
        lines += ["", "The file's own report: mean cosine loss, and captions that find their own translation (R@1):"]
        lines += [f"  {SCORED[score.name]}: {_figures(score)}" for score in findings.scores]
        lines += [f"  skill (1 - loss / constant): {skill:.3f}" for skill in _skill(findings.scores)]
    return "\n".join(lines) + "\n"


def _figures(score: Predictor) -> str:
    return f"{score.loss:.3f}" + ("" if score.recall is None else f", R@1 {score.recall:.3f}")


def _skill(scores: Iterable[Predictor]) -> list[float]:
    losses = {score.name: score.loss for score in scores}
    return [1 - losses["aligned"] / losses["constant"]] if {"aligned", "constant"} <= set(losses) else []


def to_picture(findings: Findings) -> Image.Image:
    """The same, drawn."""
    blocks = [
        drawing.paragraph(f"ZhCLIP Inspector: {findings.file}", WIDE, TITLE),
        drawing.paragraph(f"Teacher: {findings.teacher}. Layer in use: {findings.layer}.", WIDE, ink=drawing.FAINT),
        *(drawing.paragraph(f"Warning: {warning}", WIDE, paper=WARNED) for warning in findings.warnings),
        *_prompt(findings),
        *_windows(findings),
        *_agreement(findings),
        *_captions(findings),
        *_report(findings),
    ]
    return drawing.stack(blocks)


def _head(text: str) -> Image.Image:
    return drawing.paragraph(text, WIDE, HEAD, above=16)


def _note(text: str) -> Image.Image:
    return drawing.paragraph(text, WIDE, 14, drawing.FAINT)


def _prompt(findings: Findings) -> list[Image.Image]:
    if not findings.spans:
        return [_head("Prompt"), _note("The empty prompt.")]
    parts = [
        drawing.Part(s.text, LANGUAGES[s.language][1], "" if s.weight == 1 else f"{s.weight:.3g}", s.weight != 1)
        for s in findings.spans
    ]
    present = dict.fromkeys(span.language for span in findings.spans)
    legend = [drawing.Part(f"{name}: {LANGUAGES[name][0]}", LANGUAGES[name][1]) for name in present]
    return [_head("Prompt"), drawing.flow(parts, WIDE, 20), drawing.flow(legend, WIDE, 14, apart=16)]


def _windows(findings: Findings) -> list[Image.Image]:
    blocks = []
    for number, window in enumerate(findings.windows, 1):
        blocks.append(_head(window_title(number, window, findings.room)))
        tokens = [
            drawing.Part(t.text, drawing.LINE, "", t.weight != 1)
            if t.known
            else drawing.Part(t.text, drawing.RED, "unknown")
            for t in window
        ]
        blocks.append(drawing.flow(tokens, WIDE, apart=6) if tokens else _note("The empty prompt."))
    if findings.unknown:
        blocks.append(_note(f"Not in the vocabulary, so read as unknown: {'  '.join(findings.unknown)}"))
    return blocks


def _agreement(findings: Findings) -> list[Image.Image]:
    if findings.agreement is None:
        return []
    rows, columns, values = agreement_table(findings.agreement)
    low = min(0.0, *(value for row in values for value in row))
    chart = drawing.heat_map(values, rows, columns, low, 1.0, WIDE, gaps=[len(findings.agreement.sigmas)])
    return [_head(f"Attention agreement with: {findings.english}"), _note(AGREEMENT_IS), chart]


def _captions(findings: Findings) -> list[Image.Image]:
    if not findings.nearest:
        return []
    rows = [(caption, cosine, drawing.figure(cosine), drawing.BLUE) for caption, cosine in findings.nearest]
    return [_head(f"Nearest captions, by cosine; read by {findings.captions_by}"), drawing.bars(rows, 1.0, WIDE)]


def _report(findings: Findings) -> list[Image.Image]:
    if not findings.scores:
        return []
    rows = [
        (SCORED[s.name], s.loss, _figures(s), drawing.BLUE if s.name == "aligned" else drawing.SKY)
        for s in findings.scores
    ]
    skill = "".join(f" Skill (1 - loss / constant): {skill:.2f}." for skill in _skill(findings.scores))
    note = f"Mean cosine loss of all positions, lower is better; R@1 is retrieval, higher is better.{skill}"
    top = max(score.loss for score in findings.scores)
    return [_head("The file's own report, beside its floors"), _note(note), drawing.bars(rows, top, WIDE)]
