"""Pictures with Chinese lettering: the shipped face, what it lacks, wrapping, grids, heat maps, IMAGE and back."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from nodes import drawing, lettering
from tests import small

CAPTIONS = [text for pair in small.captions()[:20] for text in pair]
NOBODY = "\U000e0f00"  # unassigned: no face has it
LIMIT = 900_000  # bytes: the archive is downloaded by everybody


def characters(encoding: str, first: range, second: list[int]) -> set[str]:
    """The characters of a block of a double-byte standard."""
    codes = (bytes([a, b]) for a in first for b in second)
    return {text for text in (code.decode(encoding, "ignore") for code in codes) if len(text) == 1}


def ink(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> int:
    """How many pixels of a region are not paper."""
    part = np.asarray(image.crop(box) if box else image)
    return int((part != 255).any(-1).sum())


def line(text: str, size: int = 20) -> Image.Image:
    """A line of text alone."""
    image, draw = drawing.sheet(lettering.width(text, size) + 4, lettering.height(size))
    lettering.write(draw, 0, 0, text, size, drawing.INK)
    return image


def test_the_shipped_face_draws_the_chinese_that_people_write() -> None:
    face, low = lettering.font(12), list(range(0xA1, 0xFF))
    simplified = characters("gb2312", range(0xB0, 0xF8), low)
    traditional = characters("big5", range(0xA4, 0xC7), [*range(0x40, 0x7F), *low])
    assert len(simplified) == 6763 and len(traditional) > 5400
    latin = {chr(code) for code in [*range(0x21, 0x7F), *range(0xA1, 0x100)] if code != 0xAD}
    fullwidth = {chr(code) for code in range(0xFF01, 0xFF5F)}
    wanted = simplified | traditional | latin | fullwidth | set("\u3001\u3002\u300a\u300b\u2014\u2026\u201c\u201d")
    assert not [c for c in wanted if not lettering.has(face, c)]
    assert not lettering.has(face, NOBODY)
    assert lettering.SHIPPED.stat().st_size < LIMIT
    assert "Apache License" in (lettering.SHIPPED.parent / "LICENSE").read_text(encoding="utf-8")


def test_two_characters_are_two_pictures_and_neither_is_the_box() -> None:
    one, other, box = (line(text) for text in ("\u732b", "\u72d7", NOBODY))
    assert one.size == other.size
    difference = np.asarray(ImageChops.difference(one, other)).any(-1).sum()
    assert difference > 20 and ink(one) > 40
    assert box.width > 2 * one.width


def test_a_character_that_no_face_has_is_a_box_with_its_code_point() -> None:
    text = f"\u4e00{NOBODY}b"
    assert [(stretch, face is None) for stretch, face in lettering.runs(text, 20)] == [
        ("\u4e00", False),
        (NOBODY, True),
        ("b", False),
    ]
    image, start = line(text), lettering.width("\u4e00", 20)
    end = start + lettering.width(NOBODY, 20)
    digits = lettering.font(round(20 * lettering.BOX)).getlength("U+E0F00")
    assert end - start >= digits
    assert ink(image, (start + 3, 7, end - 4, 22)) > 60


def test_every_character_leaves_ink() -> None:
    odd = "a\u732b\u3042\ud55c\u0416\u03b1\U0001f600\u200d\U00020000\ue000\u0301\u0ba4"
    for character in odd:
        assert ink(line("e" + character, 16)) > ink(line("e", 16)), hex(ord(character))


@pytest.mark.parametrize("room", [60, 150, 400])
def test_lines_fit_and_hold_all_of_the_text(room: int) -> None:
    for text in (*CAPTIONS, "a" * 300, "\u732b" * 99, f"{'x' * 40} {CAPTIONS[0]}  b", f"(\uff0c\u3002{NOBODY * 3}", ""):
        lines = lettering.wrap(text, 16, room)
        assert all(lettering.width(part, 16) <= room or len(part) == 1 for part in lines), (text, lines)
        assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert lettering.wrap("a\nb", 16, room) == ["a", "b"]
    words = "one two three four five six seven eight nine ten"
    assert " ".join(lettering.wrap(words, 16, room)) == words


def test_no_line_begins_with_a_comma() -> None:
    for room in range(90, 200, 7):
        assert not [
            part for part in lettering.wrap("\u732b\uff0c\u72d7\u3002" * 12, 16, room) if part[0] in "\uff0c\u3002"
        ]


def coloured(width: int, height: int, red: int) -> Image.Image:
    return Image.new("RGB", (width, height), (red, 90, 160))


def test_a_grid_shows_every_image_whole_beside_its_labels() -> None:
    rows, columns = [CAPTIONS[0] * 3, "a red cat"], ["English", "encoder.safetensors " * 4, CAPTIONS[2]]
    images = torch.cat([drawing.to_tensor(coloured(128, 96, 30 * i)) for i in range(6)])
    grid = np.asarray(drawing.labelled_grid(images, rows, columns))
    corners = []
    for i in range(6):
        ys, xs = np.nonzero((grid == (30 * i, 90, 160)).all(-1))
        assert (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1, len(ys)) == (128, 96, 128 * 96)
        corners.append((int(ys.min()), int(xs.min())))
    assert [y for y, _ in corners] == [corners[0][0]] * 3 + [corners[3][0]] * 3
    assert [x for _, x in corners[:3]] == [x for _, x in corners[3:]]
    (y, x), whole = corners[0], Image.fromarray(grid)
    for i in range(3):
        assert ink(whole, (corners[i][1], 0, corners[i][1] + 128, y)) > 80
    for at in (y, corners[3][0]):
        assert ink(whole, (0, at, x, at + 96)) > 80


def test_a_narrow_image_is_centred_in_its_cell() -> None:
    grid = drawing.labelled_grid(torch.zeros(2, 64, 32, 3), ["", ""], [""])
    ys, xs = np.nonzero((np.asarray(grid) == 0).all(-1))
    assert len(ys) == 2 * 64 * 32 and xs.min() == drawing.GAP + (96 - 32) // 2
    assert ys.min() == lettering.height(drawing.TEXT) + 2 * drawing.GAP
    assert grid.size == (drawing.GAP * 2 + 96, lettering.height(drawing.TEXT) + 4 * drawing.GAP + 2 * 64)


def test_images_come_back_from_tensors() -> None:
    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    tensor = drawing.to_tensor(image)
    assert tensor.shape == (1, 5, 7, 3) and tensor.dtype == torch.float32 and 0 <= tensor.min() < tensor.max() <= 1
    assert np.array_equal(np.asarray(drawing.to_pil(tensor[0])), np.asarray(image))
    assert drawing.to_pil(torch.full((2, 3, 1), 2.0)).getpixel((0, 0)) == (255, 255, 255)
    assert drawing.to_pil(torch.zeros(2, 3, 4)).mode == "RGB"


def luminance(colour: str) -> float:
    """Relative luminance of sRGB (IEC 61966-2-1), what is left for an eye without colours."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_ramp_is_read_without_colours_and_its_figures_can_be_read() -> None:
    shades = [luminance(drawing.colour(share / 100)) for share in range(101)]
    assert all(a < b for a, b in itertools.pairwise(shades))
    for share, shade in enumerate(shades):
        text = luminance(drawing.on(share / 100))
        contrast = (max(text, shade) + 0.05) / (min(text, shade) + 0.05)
        assert contrast > 3, share


def test_a_heat_map_colours_its_cells_by_their_values() -> None:
    values = [[0.0, 0.5, 1.0], [0.25, 0.75, 2.0]]
    image = np.asarray(drawing.heat_map(values, ["a", "b"], ["x", "y", "z"], 0, 1, wide=600, gaps=[2]))
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        rgb = tuple(int(drawing.colour(value)[i : i + 2], 16) for i in (1, 3, 5))
        count = int((image == rgb).all(-1).sum())
        assert count > 2500 * (2 if value == 1 else 1), value


def test_figures_have_no_negative_zero() -> None:
    assert [drawing.figure(value) for value in (-0.004, 0.0, 1, -0.126)] == ["0.00", "0.00", "1.00", "-0.13"]


def test_flowing_text_stays_inside_its_width() -> None:
    parts = [drawing.Part(text, drawing.BLUE, "1.3") for text in (*CAPTIONS[:6], "no-spaces-" * 12)]
    narrow, wide = drawing.flow(parts, 300), drawing.flow(parts, 900)
    assert narrow.size[0] == 300 and narrow.height > 2 * wide.height
    for image in (narrow, wide):
        marked = (np.asarray(image) == (0x00, 0x72, 0xB2)).all(-1).sum()
        assert marked >= 4 * sum(lettering.width(part.text, drawing.TEXT) for part in parts) * 0.98


def test_bars_are_as_long_as_their_values() -> None:
    rows = [("a", 1.0, "1", drawing.BLUE), ("b", 0.25, "0.25", drawing.RED), ("c", -1.0, "-1", drawing.GREEN)]
    array = np.asarray(drawing.bars(rows, 1.0, wide=600))
    longs = []
    for colour in (drawing.BLUE, drawing.RED, drawing.GREEN):
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        longs.append(int((array == rgb).all(-1).any(0).sum()))
    assert abs(longs[1] / longs[0] - 0.25) < 0.01 and longs[2] <= 2
