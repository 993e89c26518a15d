"""Lists of anime tags drawn from tags.tsv, general concepts as Danbooru names them.

A list is of one person, of several, of a scene without people, or of what a negative prompt excludes. Of a few
candidates the least used is taken, so that every tag occurs about equally often.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator

from .lexicon import CANDIDATES, COMMA, table

# Probabilities of words of quality, of these before the others, of ASCII commas.
QUALITY, BEFORE, TYPED = 0.4, 0.7, 0.25
MAX_CHARACTERS, MAX_WORDS = 70, 48  # of a list, in Chinese and in English
# Groups of a person and of a scene. Those with a question mark are in a share of the lists.
PERSON = (
    "haircolour hairstyle eyes? person? features? expression? gaze? dress? tops? bottoms? legwear? neckwear? headwear? "
    "face_accessories? pattern? pose hands? weapon? object? place? time? weather? light? composition? style?"
)
SCENE = (
    "empty? place object place? time? weather? plant? plant? animal? food? object? object? light? light? composition? "
    "style?"
)
LISTS = {  # groups of a list -> its weight
    f"count {PERSON}": 0.57,
    f"several together? {PERSON}": 0.15,
    SCENE: 0.2,
    "negative " * 6 + "negative? " * 16: 0.08,
}
OPTIONAL = (0.2, 0.6)  # least and largest of that share


class Tags:
    """Generates lists of tags in a fixed random order."""

    def __init__(self) -> None:
        self.random = random.Random(44)
        self.used: dict[str, int] = defaultdict(int)
        self.groups: dict[str, list[tuple[list[str], str]]] = defaultdict(list)
        for zh, en, group in table("tags"):
            # Danbooru's "bow (weapon)" says which bow; in a prompt the brackets would be a weight.
            self.groups[group].append((zh.split("|"), re.sub(r" \(.*\)", "", en)))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Chinese and English lists without end."""
        while True:
            groups = self.random.choices(list(LISTS), list(LISTS.values()))[0].split()
            share = self.random.uniform(*OPTIONAL)
            tags = [self.tag(group.rstrip("?")) for group in groups if group[-1] != "?" or self.random.random() < share]
            if "negative" not in groups and self.random.random() < QUALITY:
                quality = [self.tag("quality") for _ in range(self.random.randint(2, 4))]
                tags = quality + tags if self.random.random() < BEFORE else tags + quality
            tags = list(dict(zip((en for _, en in tags), tags)).values())  # each once
            zh = [self.random.choice(names) for names, _ in tags]
            while len(COMMA.join(zh)) > MAX_CHARACTERS or len(" ".join(en for _, en in tags).split()) > MAX_WORDS:
                at = self.random.randrange(1, len(zh))
                del zh[at], tags[at]
            yield (", " if self.random.random() < TYPED else COMMA).join(zh), ", ".join(en for _, en in tags)

    def tag(self, group: str) -> tuple[list[str], str]:
        """A tag of a group: its Chinese names and its English one."""
        tags = self.groups[group]
        if group == "count":  # the table's first ones most
            return self.random.choices(tags, [1 / rank for rank in range(1, len(tags) + 1)])[0]
        tag = min(self.random.choices(tags, k=CANDIDATES), key=lambda tag: self.used[tag[1]])
        self.used[tag[1]] += 1
        return tag
