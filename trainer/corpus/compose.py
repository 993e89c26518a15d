"""Prompt-style pairs: captions and tags as people type them for SD1.5, made from the training pairs and phrases.tsv.

A row is a subject (a caption, two or three short ones, or a subject of the table) among quality words, styles, media,
painters, light, colours and camera words, in one of three orders. Some tags stay English on the Chinese side; painters
and trigger words stay Latin on both.

A pair holds what the two encoders read of a prompt, as the node reads it (zhclip/prompt.py), not what was typed:
- Brackets and weights go: `(red:1.2)` and `((red))` reach the encoder as `red`. Of `(a)(b)`, typed without a comma, the
  student reads `ab`, and CLIP, which ComfyUI gives one span after the other, reads `a b`. Square and escaped brackets
  are text and stay; a caption's own brackets were text in its training row, and are escaped here to stay so.
- `normalise` makes full-width characters half-width, and no space follows a comma that was full-width. Phrases are also
  typed with spaces alone. Such twins are made where the student's tokenizer gives other ids.

A row depends on its own pair, and for a second caption on the nearest pairs on a ring of hashes: adding pairs to a
corpus leaves most rows as they were. `Random.random` alone is drawn from, the one method that Python keeps the same.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from opencc import OpenCC

from zhclip.prompt import BREAK, normalise, parse, tidy

from .pairs import Length, Pair, has_chinese, key, share
from .phrases import Draw, Item, pick, say, tag, weighted

Odds = dict[str, tuple[float, ...]]
ORDERS = [
    order.split()
    for order in (
        "trigger quality detail subject hair eyes wear pose scene style medium artist colour mood light camera",
        "trigger subject hair eyes wear pose scene medium style artist mood colour light camera detail quality",
        "medium style subject hair eyes wear pose scene light colour mood camera detail quality artist trigger",
    )
]
# How often a prompt has one tag of a kind, and a second, and a third.
ODDS: Odds = {
    "quality": (0.7, 0.6, 0.4),
    "detail": (0.5, 0.3),
    "style": (0.5, 0.2),
    "medium": (0.4,),
    "light": (0.5, 0.2),
    "colour": (0.3,),
    "mood": (0.3,),
    "camera": (0.5, 0.2),
    "scene": (0.3,),
    "artist": (0.35, 0.1),
    "trigger": (0.2,),
}
LOOKS: dict[str, Odds] = {
    "girl": {"hair": (0.8,), "eyes": (0.5,), "wear": (0.8,), "pose": (0.7, 0.3)},
    "person": {"pose": (0.7,)},
}
SHORT = 8  # English words of a caption that may share a prompt with others
SEPARATORS = ("\uff0c", ", ", " ")
SEPARATOR_ODDS = (0.5, 0.35, 0.15)
TWINS = 0.2  # share of the prompts that are typed twice
# Nobody capitalises the first word of a tag; a name keeps its capital.
LOWERED = re.compile(
    "(A|An|The|This|These|There|One|Two|Three|Four|Five|Six|Several|Some|Many|People|Man|Men|Woman|Women|Boy|Girl|Child|"
    "Children|Someone|In|On|At) "
)


def compose(
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    amount: float,
    zh_ids: Callable[[str], list[int]],
    en_length: Length,
    window: int,
) -> list[Pair]:
    """About `amount` times as many prompt-style pairs as there are pairs, in their order. None is a pair of `pairs` or
    of `held` in either language, none is longer than the window, and no two read the same in Chinese."""
    composer = Composer(pairs, zh_ids, en_length, window)
    there_zh = {pair.zh for some in (pairs, held) for pair in some}
    there_en = {key(pair.en) for some in (pairs, held) for pair in some}
    read: set[tuple[int, ...]] = set()
    made: list[Pair] = []
    for pair in pairs:
        if share(pair.en, "compose") * (1 + TWINS) >= amount:
            continue
        for row in composer.rows(pair):
            ids = tuple(zh_ids(row.zh))
            if row.zh not in there_zh and key(row.en) not in there_en and ids not in read:
                read.add(ids)
                made.append(row)
    return made


class Composer:
    """Makes the rows of one pair at a time."""

    def __init__(
        self, pairs: Sequence[Pair], zh_ids: Callable[[str], list[int]], en_length: Length, window: int
    ) -> None:
        self.window = window
        self.zh_length: Length = lambda text: len(zh_ids(text)) + 2
        self.en_length = en_length
        self.tag_length = lru_cache(maxsize=None)(self.length)
        ring = sorted((share(p.en, "ring"), p.zh, p.en) for p in pairs if len(p.en.split()) <= SHORT)
        self.places = [place for place, _, _ in ring]
        self.ring = [Pair(zh, en) for _, zh, en in ring]
        self.simplified, self.traditional = OpenCC("t2s").convert, OpenCC("s2t").convert

    def rows(self, pair: Pair) -> list[Pair]:
        """A prompt, or that and its twin, or nothing where the window is too small."""
        draw = random.Random(int(share(pair.en, "prompt") * 2**64)).random
        order = pick(draw, ORDERS)
        items = self.fitting(draw, *self.subject(draw, pair))
        items = sorted(items, key=lambda item: order.index(item.slot))
        items = bracketed(draw, items) if draw() < 0.2 else items
        if pair.zh != self.simplified(pair.zh):  # who writes traditional characters types such tags too
            items = [replace(item, zh=self.traditional(item.zh)) for item in items]
        first = weighted(draw, SEPARATORS, SEPARATOR_ODDS)
        twins = [pick(draw, [s for s in SEPARATORS if s != first])] if draw() < TWINS else []
        rows = [Pair(chinese(items, separator), english(items)) for separator in (first, *twins)]
        return [row for row in rows if len(items) > 1 and self.fits(row)]

    def fits(self, row: Pair) -> bool:
        """Whether a row has Chinese to learn from, and both sides fit the window."""
        return (
            has_chinese(row.zh)
            and self.zh_length(row.zh) <= self.window
            and self.en_length(row.en) <= self.window
            and not BREAK.search(row.zh + " " + row.en)
        )

    def length(self, zh: str, en: str) -> int:
        """Tokens that an element takes, its comma included, on the side that is longer."""
        return max(self.zh_length(zh), self.en_length(en)) - 1

    def subject(self, draw: Draw, pair: Pair) -> tuple[list[Item], Odds, int]:
        """What a prompt is about, the odds of the tags that suit it, and the tokens that it takes."""
        captions = [pair]
        if self.ring and len(pair.en.split()) <= SHORT and draw() < 0.35:
            count = 1 + (draw() < 0.3)
            start = bisect(self.places, draw())
            around = [self.ring[(start + step) % len(self.ring)] for step in range(count)]
            captions = list(dict.fromkeys([pair, *around]))
        items = [Item("subject", *caption(one)) for one in captions]
        taken = sum(self.length(item.zh, item.en) for item in items)
        if draw() < 0.7 and taken <= 0.7 * self.window:
            return items, ODDS, taken
        kind = weighted(draw, ("girl", "person", "thing", "view"), (0.35, 0.2, 0.35, 0.1))
        item, odds = tabled(draw, kind)
        return [item], odds, self.tag_length(item.zh, item.en)

    def fitting(self, draw: Draw, items: list[Item], odds: Odds, taken: int) -> list[Item]:
        """The subject and as many tags as its length leaves room for, some of them in English on both sides."""
        least = taken + 6  # the prompt's end, and room for a tag
        room = min(self.window - 2, least + int(draw() * (self.window - least)))
        mixing = weighted(draw, (0.0, 0.3, 0.8), (0.5, 0.35, 0.15))
        slots = [slot for slot, chances in odds.items() for chance in chances if draw() < chance]
        used = {item.en for item in items}
        for slot in sorted(slots or ["quality"], key=lambda _: draw()):
            item = tag(draw, slot)
            if draw() < (min(1.0, 2 * mixing) if slot == "quality" else mixing):
                item = replace(item, zh=item.en)
            size = self.tag_length(item.zh, item.en)
            if item.en not in used and taken + size <= room:
                used.add(item.en)
                items = [*items, item]
                taken += size
        return items


def caption(pair: Pair) -> tuple[str, str]:
    """A caption as an element of a list: no full stop, a small first letter, its own brackets escaped."""
    zh, en = pair.zh.rstrip(" .,;!"), pair.en.rstrip(" .,;!")
    en = en[:1].lower() + en[1:] if LOWERED.match(en) else en
    zh, en = (text.replace("(", "\\(").replace(")", "\\)") for text in (zh, en))
    return zh, en


def tabled(draw: Draw, kind: str) -> tuple[Item, Odds]:
    """A subject of the table, sometimes as `an oil painting of` it, and the odds of the tags that suit it."""
    zh, en = say(draw, kind)
    odds = ODDS | {"scene": (0.6, 0.2)} | LOOKS.get(kind, {})
    if kind != "view" and not en[:1].isdigit() and draw() < 0.3:
        people = kind != "thing" and draw() < 0.5
        frame_zh, frame_en = say(draw, "portrait" if people else "frame")
        zh, en = frame_zh.format(zh), frame_en.format(en)
        odds = {slot: chances for slot, chances in odds.items() if slot not in ("medium", "eyes", "pose")}
    return Item("subject", zh, en), odds


def bracketed(draw: Draw, items: list[Item]) -> list[Item]:
    """Some elements in brackets; two tags in round ones may stand without a comma between them."""
    out: list[Item] = []
    for item in items:
        wrap = weighted(draw, ("{}", "({})", "(({}))", "[{}]"), (0.4, 0.4, 0.1, 0.1))
        tags = bool(out) and "subject" not in (out[-1].slot, item.slot)
        glued = tags and out[-1].wrap[0] == wrap[0] == "(" and draw() < 0.6
        out.append(replace(item, wrap=wrap, glued=glued))
    return out


def chinese(items: list[Item], separator: str) -> str:
    """What the student reads of a prompt: its spans joined."""
    return "".join(span.text for span in tidy(parse(normalise(typed(items, "zh", separator)))))


def english(items: list[Item]) -> str:
    """What CLIP reads of it: its spans one after the other, none of which joins a word of the next."""
    out = ""
    for span in parse(typed(items, "en", ", ")):
        out += " " * (out[-1:].isalnum() and span.text[:1].isalnum()) + span.text
    return " ".join(out.split())


def typed(items: list[Item], language: str, separator: str) -> str:
    """A prompt as typed."""
    texts = [item.wrap.format(getattr(item, language)) for item in items]
    return texts[0] + "".join(text if item.glued else separator + text for item, text in zip(items[1:], texts[1:]))
