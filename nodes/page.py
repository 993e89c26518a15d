"""The Inspector's findings as text and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from . import drawing
from .drawing import TextSpan

if TYPE_CHECKING:
    from ..zhclip.languages import LanguageSpan
    from .report import Score

WIDTH = 976  # and a margin of 24 on both sides
TITLE_SIZE, HEADING_SIZE, NOTE_SIZE = 26, 19, 14
WARNING_COLOR = "#fde8d8"
LANGUAGES = {
    "zh": ("read by ZhCLIP", drawing.BLUE),
    "en": ("read by the checkpoint's own CLIP where ZhCLIP Text Encode has it, else by ZhCLIP", drawing.ORANGE),
    "break": ("begins a new window", drawing.FAINT),
}
PREDICTORS = {
    "aligned": "this encoder",
    "ridge": "ridge map, no gradient",
    "nearest": "nearest training caption",
    "constant": "constant per position",
    "untrained": "untrained student",
}


class Token(NamedTuple):
    """The text that a token stands for, whether it is in the vocabulary, and its weight."""

    text: str
    known: bool
    weight: float


@dataclass(frozen=True)
class Findings:
    """What the Inspector collected.

    `text` is the prompt as typed, `capacity` the number of tokens that fit in a window, `unknown` the pieces that are
    not in the vocabulary, `nearest` captions with their cosines.
    """

    file: str
    teacher: str
    layer: str
    warnings: list[str]
    text: str
    spans: list[LanguageSpan]
    windows: list[list[Token]]
    capacity: int
    unknown: list[str]
    scores: list[Score]
    nearest: list[tuple[str, float]]
    captions_by: str


class Section(NamedTuple):
    """A heading, lines of text, and the blocks that show the same in the picture."""

    heading: str
    lines: list[str]
    blocks: list[Image.Image]


def render(findings: Findings) -> tuple[str, Image.Image]:
    """The report as text and as a picture 1024 pixels wide."""
    title = f"ZhCLIP Inspector: {findings.file}"
    lines = [title, f"Teacher: {findings.teacher}", f"Layer in use: {findings.layer}"]
    blocks = [drawing.paragraph(title, WIDTH, TITLE_SIZE), _note(". ".join(lines[1:]) + ".")]
    for warning in findings.warnings:
        lines.append(f"Warning: {warning}")
        blocks.append(drawing.paragraph(lines[-1], WIDTH, background=WARNING_COLOR))
    for section in _sections(findings):
        lines += ["", section.heading, *section.lines]
        blocks += [drawing.paragraph(section.heading, WIDTH, HEADING_SIZE, space_above=16), *section.blocks]
    return "\n".join(lines) + "\n", drawing.stack(blocks)


def _note(text: str) -> Image.Image:
    return drawing.paragraph(text, WIDTH, NOTE_SIZE, drawing.FAINT)


def _sections(findings: Findings) -> Iterator[Section]:
    yield _prompt_section(findings)
    for number, window in enumerate(findings.windows, 1):
        yield _window_section(f"Window {number}: {len(window)} of {findings.capacity} tokens", window)
    if findings.unknown:
        pieces = "  ".join(findings.unknown)
        yield Section("Not in the vocabulary, so read as unknown", [f"  {pieces}"], [drawing.paragraph(pieces, WIDTH)])
    if findings.nearest:
        rows = [(caption, cosine, f"{cosine:.2f}", drawing.BLUE) for caption, cosine in findings.nearest]
        lines = [f"  {cosine:.3f}  {caption}" for caption, cosine in findings.nearest]
        heading = f"Nearest captions (cosine), read by {findings.captions_by}"
        yield Section(heading, lines, [drawing.bars(rows, 1.0, WIDTH)])
    if findings.scores:
        yield scores_section(findings.scores)


def _prompt_section(findings: Findings) -> Section:
    spans = [
        TextSpan(s.text, LANGUAGES[s.language][1], "" if s.weight == 1 else f"{s.weight:.3g}", s.weight != 1)
        for s in findings.spans
    ]
    names = dict.fromkeys(span.language for span in findings.spans)
    legend = [TextSpan(f"{name}: {LANGUAGES[name][0]}", LANGUAGES[name][1]) for name in names]
    lines = [findings.text, "", "Spans (language, weight, text):"]
    lines += [f"  {span.language}  {span.weight:g}  {span.text.strip()}" for span in findings.spans] or ["  none"]
    blocks = [drawing.flow(spans, WIDTH, 20), drawing.flow(legend, WIDTH, NOTE_SIZE, spacing=16)]
    return Section("Prompt", lines, blocks if spans else [_note("The empty prompt.")])


def _window_section(heading: str, window: list[Token]) -> Section:
    text = " ".join(token.text if token.known else f"[unknown: {token.text}]" for token in window)
    spans = [
        TextSpan(token.text, tinted=token.weight != 1) if token.known else TextSpan(token.text, drawing.RED, "unknown")
        for token in window
    ]
    block = drawing.flow(spans, WIDTH, spacing=6) if spans else _note("The empty prompt.")
    return Section(heading, [f"  {text or '(the empty prompt)'}"], [block])


def scores_section(scores: list[Score]) -> Section:
    """The report of an encoder beside its baselines."""
    note = "Mean cosine loss of all positions, lower is better; R@1 is retrieval, higher is better."
    losses = {score.name: score.loss for score in scores}
    if {"aligned", "constant"} <= set(losses):
        note += f" Skill (1 - loss / constant): {1 - losses['aligned'] / losses['constant']:.3f}."
    rows = [
        (PREDICTORS[score.name], score.loss, str(score), drawing.BLUE if score.name == "aligned" else drawing.SKY)
        for score in scores
    ]
    lines = [note, *(f"  {name}: {figures}" for name, _, figures, _ in rows)]
    blocks = [_note(note), drawing.bars(rows, max(losses.values()), WIDTH)]
    return Section("The file's own report, beside its baselines", lines, blocks)
