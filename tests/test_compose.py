"""Prompt-style pairs: what the corpus stage makes of its pairs, and that it is what the node's encoders read."""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opencc import OpenCC

from tests import encoders, small
from trainer.__main__ import main
from trainer.corpus.compose import SEPARATORS, chinese, compose, english
from trainer.corpus.pairs import Pair, has_chinese, key
from trainer.corpus.phrases import Item, phrases
from trainer.corpus.stage import read_pairs
from trainer.encoders.teacher import caption_length, load_tokenizer
from trainer.encoders.tokenizer import load_tokens
from zhclip.prompt import BREAK, normalise, parts
from zhclip.tokens import PromptTokenizer

WINDOW = 77
CAT, DOG, RED = "\u4e00\u53ea\u732b", "\u4e00\u53ea\u72d7", "\u7ea2\u8272"  # a cat, a dog, red
RIDING = "\u9a0e\u99ac"  # on a horse, in traditional characters
FROG = "\u96e8\u4e2d\u7684\u9752\u86d9"  # a frog in the rain
NAMES = ("artist", "by", "trigger", "frame", "portrait")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student, a teacher, and pairs of which some are long, bracketed or traditional."""
    folder = tmp_path_factory.mktemp("compose")
    encoders.student(folder / "student")
    encoders.clip_teacher(folder / "teacher")
    write(folder / "train.tsv", pairs(400))
    write(folder / "more.tsv", [*pairs(400), *(Pair(f"{DOG}{n}", f"the dog {n}") for n in range(40))])
    write(folder / "dev.tsv", [Pair(f"{FROG}{n}", f"a frog {n}") for n in range(9)])
    return folder


def pairs(count: int) -> list[Pair]:
    some = [
        *(Pair(zh, en) for zh, en in small.captions()),
        Pair(f"{CAT}({RED})\u3002", "A cat (red)."),
        Pair(DOG, "A dog."),
    ]
    return [Pair(f"{pair.zh}{n}", f"{pair.en} {n}") for n in range(99) for pair in some][:count]


def write(path: Path, some: list[Pair]) -> None:
    path.write_text("zh\ten\n" + "".join(f"{p.zh}\t{p.en}\n" for p in some), encoding="utf-8")


def flags(inputs: Path, run: Path, *more: str, train: str = "train.tsv") -> list[str]:
    models = ["--student.model", str(inputs / "student"), "--teacher.model", str(inputs / "teacher")]
    corpora = ["--corpus.train", str(inputs / train), "--corpus.dev", str(inputs / "dev.tsv")]
    return ["corpus", "--run", str(run), "--window", str(WINDOW), *models, *corpora, *more]


@pytest.fixture(scope="module")
def plain(inputs: Path) -> Path:
    """The corpus stage's folder without a composer."""
    assert main(flags(inputs, inputs / "plain")) == 0
    return inputs / "plain" / "corpus"


@pytest.fixture(scope="module")
def composed(inputs: Path) -> Path:
    """The same with it."""
    assert main(flags(inputs, inputs / "composed", "--corpus.compose", "1")) == 0
    return inputs / "composed" / "corpus"


def rows(plain: Path, composed: Path) -> list[Pair]:
    """What stands behind the clean pairs."""
    return read_pairs(composed / "train.tsv")[len(read_pairs(plain / "train.tsv")) :]


def test_composed_pairs_follow_the_clean_ones_and_are_counted(plain: Path, composed: Path) -> None:
    clean, made = read_pairs(plain / "train.tsv"), rows(plain, composed)
    assert read_pairs(composed / "train.tsv")[: len(clean)] == clean
    assert 0.6 * len(clean) < len(made) < 1.2 * len(clean)
    for name in ("dev.tsv", "rejects.tsv"):
        assert (composed / name).read_bytes() == (plain / name).read_bytes()
    summary = json.loads((composed / "summary.json").read_text(encoding="utf-8"))
    assert summary["train"]["composed"] == len(made)
    assert summary["train"]["rows"] == len(clean) + len(made)
    assert "composed" not in summary["dev"]
    page = (composed / "summary.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert f"{len(clean)} kept, " in text and f"{len(made)} more in prompt style" in text
    assert made[0].en in text.partition("Composed")[2]
    assert "Composed" not in (plain / "summary.html").read_text(encoding="utf-8")


def test_composed_pairs_fit_and_are_no_pair_of_either_split(inputs: Path, plain: Path, composed: Path) -> None:
    tokens = load_tokens(str(inputs / "student"), WINDOW)
    teacher = load_tokenizer(str(inputs / "teacher"), "")
    made, others = rows(plain, composed), read_pairs(plain / "train.tsv") + read_pairs(plain / "dev.tsv")
    assert max(tokens.length(row.zh) for row in made) <= WINDOW
    assert max(caption_length(teacher, row.en) for row in made) <= WINDOW
    assert not {row.zh for row in made} & {pair.zh for pair in others}
    assert not {key(row.en) for row in made} & {key(pair.en) for pair in others}
    assert len({tuple(tokens.ids(row.zh)) for row in made}) == len(made)  # no two rows read the same
    assert not [row for row in made if FROG in row.zh or "frog" in row.en]
    assert all(row.zh == normalise(row.zh) and has_chinese(row.zh) for row in made)
    own = [row for row in made if "cat (red" in row.en]  # a caption's brackets are its own, and no prompt syntax
    assert own and all(f"{CAT}({RED})" in row.zh and "a cat (red)" in row.en for row in own)


def test_names_and_trigger_words_stand_on_both_sides(plain: Path, composed: Path) -> None:
    made = rows(plain, composed)
    names = [phrase.en for phrase in phrases()["artist"]]
    painted = [(row, name) for row in made for name in names if name in row.en]
    invented = [
        (row, word) for row in made for word in re.findall(r"\w+_(?:style|v\d)|\w+ \((?:game|character)\)", row.en)
    ]
    assert len(painted) > 20 and len(invented) > 5
    assert not [(row, name) for row, name in painted + invented if name not in row.zh]


def test_some_tags_are_english_on_both_sides_and_some_on_one(plain: Path, composed: Path) -> None:
    tags = [p for slot in ("style", "medium", "light", "camera") for p in phrases()[slot] if not p.zh[0].isascii()]
    made = rows(plain, composed)
    mixed = sum(any(tag.en in row.zh for tag in tags) for row in made)
    translated = sum(any(zh in row.zh and tag.en in row.en for tag in tags for zh in tag.zh) for row in made)
    assert 0.1 * len(made) < mixed < translated


def test_a_second_run_writes_the_same_bytes(inputs: Path, composed: Path) -> None:
    assert main(flags(inputs, inputs / "again", "--corpus.compose", "1")) == 0
    for name in ("train.tsv", "summary.json", "summary.html"):
        assert (inputs / "again" / "corpus" / name).read_bytes() == (composed / name).read_bytes()


def test_more_pairs_and_a_smaller_share_move_few_rows(inputs: Path, plain: Path, composed: Path) -> None:
    made = set(rows(plain, composed))
    assert main(flags(inputs, inputs / "more", "--corpus.compose", "1", train="more.tsv")) == 0
    assert len(made & set(read_pairs(inputs / "more" / "corpus" / "train.tsv"))) > 0.9 * len(made)
    assert main(flags(inputs, inputs / "fewer", "--corpus.compose", "0.25")) == 0
    fewer = rows(plain, inputs / "fewer" / "corpus")
    assert 0.12 * len(made) < len(fewer) < 0.4 * len(made)
    assert len(made & set(fewer)) > 0.95 * len(fewer)


def test_a_finished_corpus_without_a_composer_is_still_valid(
    inputs: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "compose" not in json.loads((plain / "settings.json").read_text(encoding="utf-8"))
    before = (plain / "train.tsv").stat().st_mtime_ns
    assert main(flags(inputs, plain.parent, "--corpus.compose", "0")) == 0
    assert (plain / "train.tsv").stat().st_mtime_ns == before
    assert main(flags(inputs, plain.parent, "--corpus.compose", "0.5")) == 1
    assert "compose was None and is now 0.5" in capsys.readouterr().err
    assert main(flags(inputs, inputs / "wrong", "--corpus.compose", "20")) == 1
    assert "--corpus.compose 20 is no share; give a number from 0 to 1" in capsys.readouterr().err


def test_traditional_captions_get_traditional_tags(inputs: Path) -> None:
    traditional, simplified = OpenCC("s2t").convert, OpenCC("t2s").convert
    write(inputs / "old.tsv", [Pair(f"{RIDING}{p.zh}", p.en) for p in pairs(60)])
    assert main(flags(inputs, inputs / "old", "--corpus.compose", "1", train="old.tsv")) == 0
    made = [row for row in read_pairs(inputs / "old" / "corpus" / "train.tsv")[60:] if RIDING in row.zh]
    assert len(made) > 20
    assert sum(row.zh == traditional(simplified(row.zh)) for row in made) > 0.9 * len(made)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_row_is_what_the_node_reads_of_the_prompt(inputs: Path, separator: str) -> None:
    """Brackets are the prompt's and leave nothing but a missing comma; a caption's own, escaped, stay."""
    tokens = load_tokens(str(inputs / "student"), WINDOW)
    items = [
        Item("quality", "\u6770\u4f5c", "masterpiece", "({})"),
        Item("quality", "8K", "8k", "(({}))", glued=True),
        Item("subject", f"{CAT}\\({RED}\\)", "a cat \\(red\\)"),
        Item("style", "\u6cb9\u753b", "oil painting", "[{}]"),
    ]
    typed = f"(\u6770\u4f5c)((8K)){separator}{CAT}\\({RED}\\){separator}[\u6cb9\u753b]"
    full_width = typed.replace("((", "\uff08\uff08").replace("))", "\uff09\uff09")
    row = chinese(items, separator)
    comma = normalise(f"x{separator}x").strip("x")
    assert row == f"\u6770\u4f5c8K{comma}{CAT}({RED}){comma}[\u6cb9\u753b]"
    for prompt in (typed, full_width, typed.replace("((8K))", "(8K:1.4)")):
        assert [window.ids for window in tokens.weighted_windows(prompt)] == tokens.windows(row)
    assert english(items) == "masterpiece 8k, a cat (red), [oil painting]"


def test_the_table_says_each_thing_once() -> None:
    table = phrases()
    terms = sum(
        len(table[slot]) for slot in ("quality", "detail", "style", "medium", "light", "camera", "colour", "mood")
    )
    subjects = sum(len(table[slot]) for slot in ("girl", "person", "thing", "view", "scene"))
    assert terms >= 150 and subjects >= 60
    for slot, some in table.items():
        forms = [zh for phrase in some for zh in phrase.zh]
        if slot not in ("by", "trigger"):
            assert len(set(forms)) == len(forms) and len({phrase.en for phrase in some}) == len(some), slot
        for phrase in some:
            assert phrase.en.isascii() and all(zh == normalise(zh) for zh in phrase.zh), phrase
            assert not set("()\\") & set(phrase.en + "".join(phrase.zh)), phrase
            assert (
                {zh.count("{}") for zh in phrase.zh} == {phrase.en.count("{}")} == {slot in NAMES and slot != "artist"}
            )
    assert all(phrase.zh == (phrase.en,) for phrase in table["artist"])


def test_a_row_that_stands_in_the_dev_set_in_either_language_is_not_made() -> None:
    tokens = characters()
    made = compose(pairs(80), [], 1.0, tokens.ids, tokens.length, WINDOW)
    held = [*(Pair(row.zh, "x") for row in made[:5]), *(Pair("x", row.en.upper()) for row in made[5:10])]
    again = compose(pairs(80), held, 1.0, tokens.ids, tokens.length, WINDOW)
    assert not {row.zh for row in again} & {row.zh for row in made[:5]}
    assert not {row.en for row in again} & {row.en for row in made[5:10]}
    assert [row for row in made[10:] if row in again] == made[10:]


@lru_cache
def characters() -> PromptTokenizer:
    return PromptTokenizer.of(small.artifact(window=WINDOW))


PIECES = st.sampled_from([*"(){}[]:\\\"'.,! 1aB_|", CAT, RED, "BREAK ", "\uff0c", "\u3002"])
TEXTS = st.lists(PIECES, min_size=1, max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=2, max_size=8, unique_by=lambda pair: key(pair[1])),
    st.sampled_from([8, 12, 20, WINDOW]),
    st.floats(0.1, 1),
)
def test_odd_captions_make_rows_that_can_be_trained_on(
    texts: list[tuple[str, str]], window: int, amount: float
) -> None:
    some = [Pair(normalise(CAT + zh), " ".join(f"a {en}".split())) for zh, en in texts]
    held, ids = some[1:2], characters().ids

    def length(text: str) -> int:
        return len(ids(text)) + 2

    made = compose(some, held, amount, ids, length, window)
    assert made == compose(some, held, amount, ids, length, window)
    assert len(made) <= 2 * len(some)
    for row in made:
        assert length(row.zh) <= window and length(row.en) <= window
        assert row.en == " ".join(row.en.split()) and row.zh == normalise(row.zh)
        assert "\t" not in row.zh + row.en and has_chinese(row.zh)
        assert not BREAK.search(row.zh) and not BREAK.search(row.en)
        assert row.zh not in {pair.zh for pair in held} and key(row.en) not in {key(pair.en) for pair in held}
        assert len(parts(row.zh)) == 1
