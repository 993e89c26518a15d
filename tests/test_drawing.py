"""Pictures with Chinese text: the shipped font, wrapping, grids, flowing text."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from nodes import drawing, lettering
from tests import small

CAPTIONS = [text for pair in small.captions()[:20] for text in pair]
LIMIT = 900_000  # bytes: everybody downloads the font with the pack


def characters(encoding: str, first: range, second: list[int]) -> set[str]:
    """The characters of a block of a double-byte standard."""
    codes = (bytes([a, b]) for a in first for b in second)
    return {text for text in (code.decode(encoding, "ignore") for code in codes) if len(text) == 1}


def pixels(image: Image.Image, color: str) -> np.ndarray:
    """(H, W) bool: where an image has a colour."""
    return (np.asarray(image) == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)


def test_the_shipped_font_has_the_chinese_that_people_write() -> None:
    low = list(range(0xA1, 0xFF))
    simplified = characters("gb2312", range(0xB0, 0xF8), low)
    traditional = characters("big5", range(0xA4, 0xC7), [*range(0x40, 0x7F), *low])
    latin = {chr(code) for code in [*range(0x21, 0x7F), *range(0xA1, 0x100)] if code != 0xAD}
    fullwidth = {chr(code) for code in range(0xFF01, 0xFF5F)}
    wanted = simplified | traditional | latin | fullwidth | set("\u3001\u3002\u300a\u300b\u2014\u2026\u201c\u201d")
    missing = bytes(lettering.font(24).getmask("\U0010ffff"))
    assert len(simplified) == 6763 and len(traditional) > 5400
    assert not [c for c in wanted if bytes(lettering.font(24).getmask(c)) in (missing, b"")]
    assert lettering.FONT_FILE.stat().st_size < LIMIT
    assert "Apache License" in (lettering.FONT_FILE.parent / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 150, 400])
def test_lines_fit_and_hold_all_of_the_text(width: int) -> None:
    for text in (*CAPTIONS, "a" * 300, "\u732b" * 99, f"{'x' * 40} {CAPTIONS[0]}  b", ""):
        lines = lettering.wrap(text, 16, width)
        assert all(lettering.text_width(part, 16) <= width for part in lines), (text, lines)
        assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert lettering.wrap("a\nb", 16, width) == ["a", "b"]
    words = "one two three four five six seven eight nine ten"
    assert " ".join(lettering.wrap(words, 16, width)) == words
    sentence = lettering.wrap("\u732b\uff0c\u72d7\u3002" * 12, 16, width + 40)
    assert not [part for part in sentence if part[0] in "\uff0c\u3002"]


def test_a_grid_shows_every_image_whole_beside_its_labels() -> None:
    rows, columns = [CAPTIONS[0] * 3, "a red cat"], ["English", "encoder.safetensors " * 4, CAPTIONS[2]]
    colors = [f"#{30 * i:02x}5aa0" for i in range(6)]
    images = torch.cat([drawing.to_tensor(Image.new("RGB", (128, 96), color)) for color in colors])
    grid = drawing.labelled_grid(images, rows, columns)
    corners = []
    for color in colors:
        ys, xs = np.nonzero(pixels(grid, color))
        assert (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1, len(ys)) == (128, 96, 128 * 96)
        corners.append((int(ys.min()), int(xs.min())))
    assert [y for y, _ in corners] == [corners[0][0]] * 3 + [corners[3][0]] * 3
    assert [x for _, x in corners[:3]] == [x for _, x in corners[3:]]
    ink, (y, x) = (np.asarray(grid) != 255).any(-1), corners[0]
    assert all(ink[:y, left : left + 128].sum() > 80 for _, left in corners[:3])
    assert all(ink[top : top + 96, :x].sum() > 80 for top in (y, corners[3][0]))


def test_flowing_text_stays_inside_its_width() -> None:
    spans = [drawing.TextSpan(text, drawing.BLUE, "1.3") for text in (*CAPTIONS[:6], "no-spaces-" * 12)]
    narrow, wide = drawing.flow(spans, 300), drawing.flow(spans, 900)
    assert narrow.size[0] == 300 and narrow.height > 2 * wide.height
    length = sum(lettering.text_width(span.text, drawing.TEXT) for span in spans)
    assert all(pixels(image, drawing.BLUE).sum() >= 4 * length * 0.98 for image in (narrow, wide))
