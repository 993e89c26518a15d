"""Rules that reject a row: functions from its texts to a reason, which is empty for a good row.

Reasons are fixed words, for counting. The bounds were chosen on real corpora (human-translated captions, tag lists,
Tatoeba) so that nearly all of the rejected rows are wrong ones.
"""

from __future__ import annotations

import re

HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f]")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019\u02bc-][^\W\d_]+)*")  # letters only, whatever their script
LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")  # letters, accents included
NUMBER = re.compile(r"\d+")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffe\uffff\ud800-\udfff]")
# Names that cameras, phones and scanners give, and any name with a picture's suffix.
FILE_NAME = re.compile(
    r"(?:\S+\.(?:jpe?g|png|gif|tiff?|bmp|webp|heic|cr2|nef|raw|mp4|mov|avi)"
    r"|(?:IMG|IMGP|DSCN?|DSCF|DSC|_DSC|_MG|PICT|PIC|CIMG|SSL|HPIM|MVI|MVC|SANY|SCAN|IMAGE|PHOTO|SAM|PXL|GOPR|DJI)"
    r"[-_ ]?\d{2,}\w*(?:[-_ ]\d+)*"
    r"|P\d{6,}|\d{3}[-_]\d{4}|\d{8}[-_ ]\d{4,6}|[0-9a-f]{16,})(?:\s*\(\d+\)|\s+copy)?",
    re.IGNORECASE,
)
BOILERPLATE = re.compile(
    r"https?://|www\.\w|</?(?:a|b|i|u|em|strong|font|br|p|h[1-6]|li|ul|div|span|img|script)\b[^>]*>|&(?:amp|quot|lt|gt|nbsp|#\d+);"
    r"|\ball rights reserved\b|^(?:copyright\b|\u00a9)"
    r"|\bclick here\b|\bclick (?:on )?the image\b"
    r"|\bterms of (?:use|service)\b|\bprivacy policy\b|\bno description\b|\bimage may contain\b|\blorem ipsum\b"
    r"|^(?:untitled|no title|no caption|slide ?\d+|uploaded by .*|please credit .*)[\s.]*$",
    re.IGNORECASE,
)
MIN_HAN = 0.2  # least share of ideographs in the Chinese side; a word of another script counts as one character
MIN_LATIN = 0.5  # least share of Latin letters among the English side's letters


def pair_fault(zh: str, en: str) -> str:
    """What is wrong with a pair's texts as they were written."""
    return english_fault(en) or chinese_fault(zh) or ratio_fault(zh, en)


def english_fault(en: str) -> str:
    """What is wrong with an English caption, whether it has a partner or not."""
    if CONTROL.search(en):
        return "control characters"
    text = en.strip()
    if FILE_NAME.fullmatch(text):
        return "file name"
    if BOILERPLATE.search(text):
        return "boilerplate"
    letters = "".join(c for c in text if c.isalpha())
    if not letters:
        return "" if any(c.isdigit() for c in text) else "no English"
    return "no English" if len(LATIN.findall(letters)) < MIN_LATIN * len(letters) else ""


def chinese_fault(zh: str) -> str:
    """What is wrong with the Chinese side: control characters, or too few ideographs among words of other scripts."""
    if CONTROL.search(zh):
        return "control characters"
    han, words = chinese_units(zh)
    if not han:
        return "no Chinese"
    return "mostly not Chinese" if han < MIN_HAN * (han + words) else ""


def chinese_units(zh: str) -> tuple[int, int]:
    """Numbers of ideographs and of words of other scripts."""
    return len(HAN.findall(zh)), len(WORD.findall(HAN.sub(" ", zh)))


def ratio_fault(zh: str, en: str) -> str:
    """Sides of which one says far more than the other: a translation has 1 to 3 characters a word."""
    chinese = sum(chinese_units(zh)) + len(NUMBER.findall(zh))
    english = len(en.split())
    # The allowance of 10 keeps short rows: an idiom of 4 characters may take a sentence.
    if chinese > 4 * english + 10:
        return "Chinese too long for the English"
    return "English too long for the Chinese" if english > 2 * chinese + 10 else ""
