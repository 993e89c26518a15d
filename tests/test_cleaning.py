"""What the corpus stage leaves out and why: its rules, near duplicates, scripts, mixtures, and the split."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import encoders, small
from trainer.__main__ import main
from trainer.base.recipe import CorpusSettings, Recipe, SettingsError, Source
from trainer.base.settings import corpus_name, public, sources
from trainer.corpus.clean import chinese_fault, english_fault, pair_fault, ratio_fault
from trainer.corpus.lines import Row
from trainer.corpus.near import NearIndex
from trainer.corpus.pairs import Cleaned, Pair, clean, fold, share
from trainer.corpus.stage import Mixture
from zhclip.prompt import normalise

CAT, DOG = "\u4e00\u53ea\u732b", "\u4e00\u53ea\u72d7"  # a cat, a dog
KING = "\u570b\u738b"  # a king, in traditional characters
KANA = "\u304d\u308c\u3044\u306a\u306e\u732b"


@pytest.mark.parametrize(
    ("en", "fault"),
    [
        ("IMG_0520", "file name"),
        ("dsc01234.JPG", "file name"),
        ("DSCN1234 (2)", "file name"),
        ("P1010001", "file name"),
        ("100_4321", "file name"),
        ("20080513_120000", "file name"),
        ("my-cat.jpeg", "file name"),
        ("Canon PowerShot ELPH 310 HS", "camera name"),
        ("NIKON D90", "camera name"),
        ("Sony DSC-W55", "camera name"),
        ("Apple iPhone 4S", "camera name"),
        ("Untitled", "boilerplate"),
        ("see www.example.org for more", "boilerplate"),
        ("A cat. All rights reserved.", "boilerplate"),
        ("a <b>cat</b>", "boilerplate"),
        ("\u732b\u732b\u732b", "no English"),
        ("\u043a\u043e\u0448\u043a\u0430", "no English"),
        ("???", "no English"),
        ("a\x07 cat", "control characters"),
        ("a \ue000 cat", "control characters"),
        ("a picture of a cat", ""),
        ("photo", ""),
        ("Polaroid camera", ""),
        ("a man holds his canon camera", ""),
        ("a nikon d90 on a table", ""),
        ("an image from 2008", ""),
        ("P90 gun", ""),
        ("1984", ""),
        ("caf\u00e9 in Z\u00fcrich", ""),
        ("A cat asleep beside 8 dogs, stock photo", ""),
        ("Bus 100 in front of a sign that says \u4e2d\u6587", ""),
    ],
)
def test_an_english_caption_is_refused_for_a_reason(en: str, fault: str) -> None:
    assert english_fault(en, 0.5) == fault


@pytest.mark.parametrize(
    ("zh", "fault"),
    [
        (CAT, ""),
        (f"Tom\u7684{DOG}", ""),
        ("8k, \u8d5b\u535a\u670b\u514b\u98ce\u683c, by Greg Rutkowski", ""),
        ("see the whole gallery here\u7684", "mostly not Chinese"),
        (KANA, ""),  # one word of kana to one ideograph: half of it
        ("\u304d \u308c \u3044 \u306a \u306e \u732b", "mostly not Chinese"),
    ],
)
def test_the_chinese_side_has_to_be_chinese(zh: str, fault: str) -> None:
    assert chinese_fault(zh, 0.2) == fault


def test_one_side_may_not_say_far_more_than_the_other() -> None:
    assert ratio_fault(DOG, "a dog") == ""
    assert ratio_fault("\u72d7" * 15, "dog") == "Chinese too long for the English"
    assert ratio_fault("\u72d7" * 14, "dog") == ""
    assert ratio_fault("\u72d7", " ".join(["dog"] * 13)) == "English too long for the Chinese"
    assert ratio_fault("\u72d7", " ".join(["dog"] * 12)) == ""


def test_no_rule_takes_a_caption_that_a_person_wrote() -> None:
    faults = {en: pair_fault(zh, en, 0.2, 0.5) for zh, en in small.captions()}
    assert not {en: fault for en, fault in faults.items() if fault}


def length(text: str) -> int:
    return len(text) + 2


def cleaned(pairs: list[tuple[str, str]], taken: Sequence[Pair] = (), **settings) -> Cleaned:
    rows = [Row(at, zh, en) for at, (zh, en) in enumerate(pairs, 1)]
    return clean(rows, length, length, 999, CorpusSettings(**settings), taken)


LONG = "a wide view of " + " ".join(f"house number{n} beside tree{n}" for n in range(16)) + " in the evening"


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("A dog, asleep!", "a dog asleep", True),
        ("a T-shirt", "a t shirt", True),
        (LONG, LONG.replace("evening", "morning"), True),
        ("a man in a red shirt", "a man in a blue shirt", False),
        ("a man rides a horse on a beach", "a woman rides a horse on a beach", False),
        ("I know him by sight, but not by name.", "I know him by name, but not by sight.", False),
        ("a cat 1", "a cat 2", False),
        (LONG, LONG.replace("evening", "morning").replace("wide", "narrow").replace("tree7", "bush"), False),
    ],
)
def test_near_captions_are_those_that_say_the_same(first: str, second: str, near: bool) -> None:
    cat, dog = (some * max(1, len(en.split()) // 3) for some, en in ((CAT, first), (DOG, second)))
    found = cleaned([(cat, first), (dog, second)])
    assert found.counts() == ({"near duplicate": 1} if near else {})
    assert cleaned([(cat, first), (dog, second)], near=None).counts() == {}
    held = cleaned([(dog, second)], taken=[Pair(cat, first)])
    assert held.counts() == ({"near a dev caption": 1} if near else {})


def test_minhash_finds_what_comparing_all_with_all_finds() -> None:
    source = random.Random(3)
    words = [f"w{n}" for n in range(300)]
    captions = [" ".join(source.choices(words, k=60)) for _ in range(150)]
    planted = [caption.replace(caption.split()[30], "other", 1) for caption in captions]
    index = NearIndex(0.88)
    found = 0
    for caption in captions + planted:
        at, bands = index.find(caption)
        found += at is not None
        if at is None:
            index.add(caption, bands)
        else:
            assert captions[at] == captions[planted.index(caption)]
    assert found >= 140  # the bands miss a few in a hundred, and never more than they should


def test_traditional_characters_are_kept_simplified_or_both() -> None:
    rows, simple = [(KING, "a king"), (CAT, "a cat")], "\u56fd\u738b"
    assert [pair.zh for pair in cleaned(rows).pairs] == [KING, CAT]
    assert [pair.zh for pair in cleaned(rows, script="simplify").pairs] == [simple, CAT]
    both = cleaned(rows, script="both")
    assert [(pair.zh, pair.en) for pair in both.pairs] == [(KING, "a king"), (simple, "a king"), (CAT, "a cat")]
    assert both.twins == 1


def many(count: int) -> list[tuple[str, str]]:
    """Different captions of one word each and a number, as tests/encoders.py has them."""
    return [(f"{DOG}{n}", f"a dog {n}") for n in range(count)]


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    path.write_text("zh\ten\n" + "".join(f"{zh}\t{en}\n" for zh, en in pairs), encoding="utf-8")
    return str(path)


def test_a_weight_takes_its_share_and_the_same_rows_each_time(tmp_path: Path) -> None:
    whole, part = write(tmp_path / "whole.tsv", many(1000)), write(tmp_path / "part.tsv", many(1000))

    def taken(weight: float) -> tuple[set[str], Mixture]:
        mixture = Mixture([Source(whole), Source(part, weight)])
        return {row.en for row in mixture.rows() if row.source == "part.tsv"}, mixture

    small_share, mixture = taken(0.3)
    assert 250 < len(small_share) < 350
    assert mixture.read == {"whole.tsv": 1000, "part.tsv": 1000}
    assert mixture.left_out == {"part.tsv": 1000 - len(small_share)}
    assert small_share == taken(0.3)[0]
    assert small_share < taken(0.6)[0] < taken(1)[0]  # a larger share holds the smaller one
    for weight in (0, -1, 1.5):
        with pytest.raises(SettingsError):
            sources([Source(whole, weight)])


def test_printable_ascii_is_normalised_already() -> None:
    source = random.Random(1)
    for _ in range(2000):
        text = "".join(chr(source.randrange(1, 128)) for _ in range(source.randrange(40)))
        assert fold(" ".join(text.split())) == normalise(text), repr(text)


def test_share_is_of_the_normalised_text_and_of_its_purpose() -> None:
    assert share("A  Dog\uff0cX", "dev") == share("a dog,x", "dev")
    assert share("a dog", "dev") != share("a dog", "weight")
    assert share("a dog", "dev") == pytest.approx(0.2043, abs=1e-4)  # for good: a re-run moves no row


def test_a_shared_file_names_its_corpora_without_their_folders(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.tsv", many(1)), write(tmp_path / "b.tsv", many(1))
    recipe = Recipe(corpus=CorpusSettings([Source(a, 0.5), Source("me/pairs", zh="x")], a, b))
    kept = public(recipe)["corpus"]
    assert [source["path"] for source in kept["train"]] == ["a.tsv", "me/pairs"]
    assert (kept["train"][0]["weight"], kept["dev"], kept["english"]) == (0.5, "a.tsv", "b.tsv")
    assert corpus_name(recipe.corpus) == "a.tsv"
    recipe.corpus.dev = None
    assert corpus_name(recipe.corpus) == "a.tsv + me/pairs (held out)"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    student, teacher = encoders.student(folder / "student"), encoders.clip_teacher(folder / "teacher")
    return ["--student.model", str(student), "--teacher.model", str(teacher), "--window", "32"]


def english_of(path: Path) -> list[str]:
    return [line.split("\t")[1] for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def test_without_dev_pairs_the_hash_splits_and_never_moves_a_row(models: list[str], tmp_path: Path) -> None:
    doubled = many(400) + [(f"{CAT}{n}", f"A  Dog {n}") for n in range(400)]  # the same captions, written otherwise
    small_corpus, large = write(tmp_path / "a.tsv", doubled), write(tmp_path / "b.tsv", doubled + many(900)[400:])
    splits = {}
    for name, path in (("first", small_corpus), ("again", small_corpus), ("more", large)):
        flags = ["--corpus.train", path, "--corpus.dev_share", "0.1"]
        assert main(["corpus", "--run", str(tmp_path / name), *models, *flags]) == 0
        splits[name] = {s: english_of(tmp_path / name / "corpus" / f"{s}.tsv") for s in ("train", "dev")}
    assert splits["first"] == splits["again"]
    assert set(splits["first"]["dev"]) < set(splits["more"]["dev"])
    assert set(splits["first"]["train"]) < set(splits["more"]["train"])
    assert 20 < len(splits["first"]["dev"]) < 65
    for split in splits.values():
        assert not {en.lower() for en in split["dev"]} & {en.lower() for en in split["train"]}
        assert len(set(split["train"])) == len(split["train"])
    files = sorted((tmp_path / "first" / "corpus").iterdir())
    assert [file.name for file in files] == [*("dev.tsv", "rejects.tsv", "settings.json", "summary.json", "train.tsv")]
    for file in files:
        assert file.read_bytes() == (tmp_path / "again" / "corpus" / file.name).read_bytes(), file.name


@pytest.fixture(scope="module")
def mixed(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a corpus stage over a mixture in YAML, English captions beside it."""
    folder = tmp_path_factory.mktemp("mixed")
    write(folder / "a.tsv", [*many(40), (CAT, "IMG_1234"), (CAT, "a <i>cat</i>"), ("\u4e00\u5c01<b>", "www.x.org")])
    (folder / "m.en-zh.en").write_text("".join(f"a cat {n}\n" for n in range(200)), encoding="utf-8")
    (folder / "m.en-zh.zh").write_text("".join(f"{CAT}{n}\n" for n in range(200)), encoding="utf-8")
    write(folder / "dev.tsv", many(50)[40:] + [(f"{DOG}3", "in train too")])
    (folder / "captions.txt").write_text("A red dog\nDSC_0001\na RED dog\nA blue <b>\nA bird\n", encoding="utf-8")
    recipe = {
        "run": str(folder / "run"),
        "corpus": {
            "train": [{"path": str(folder / "a.tsv")}, {"path": str(folder / "m.en-zh"), "weight": 0.5}],
            "dev": str(folder / "dev.tsv"),
            "english": str(folder / "captions.txt"),
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    assert main(["corpus", "--config", str(folder / "recipe.yaml"), *models]) == 0
    yield folder / "run" / "corpus"


def test_a_mixture_writes_pairs_captions_and_every_reject(mixed: Path) -> None:
    summary = json.loads((mixed / "summary.json").read_text(encoding="utf-8"))
    train = english_of(mixed / "train.tsv")
    assert sum(en.startswith("a dog") for en in train) == 39
    assert 70 < sum(en.startswith("a cat") for en in train) < 130
    assert summary["train"]["rejected"] == {"also in dev": 1, "boilerplate": 2, "file name": 1}
    assert summary["train"]["read"] == {"a.tsv": 43, "m.en-zh": 200}
    assert summary["train"]["rows"] + summary["train"]["left_out_by_weight"]["m.en-zh"] + 4 == 243
    assert (mixed / "english.tsv").read_text(encoding="utf-8") == "en\nA red dog\nA bird\n"
    assert summary["english"]["rejected"] == {"boilerplate": 1, "duplicate": 1, "file name": 1}
    rejects = [line.split("\t") for line in (mixed / "rejects.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [row[:3] for row in rejects if row[0] == "train"] == [
        ["train", "a.tsv:5", "also in dev"],
        ["train", "a.tsv:42", "file name"],
        ["train", "a.tsv:43", "boilerplate"],
        ["train", "a.tsv:44", "boilerplate"],
    ]
    assert len(rejects) == sum(sum(split["rejected"].values()) for split in summary.values())


def test_english_captions_alone_need_no_pairs_and_no_student(models: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A red dog\nA bird\n", encoding="utf-8")
    flags = ["--run", str(tmp_path / "run"), "--corpus.english", str(tmp_path / "a.txt"), *models[2:]]
    assert main(["corpus", *flags]) == 0
    written = {file.name for file in (tmp_path / "run" / "corpus").iterdir()}
    assert written == {"english.tsv", "rejects.tsv", "settings.json", "summary.json"}


@pytest.mark.parametrize(
    ("setting", "values"),
    [("near", (0.9, 0.8)), ("script", ("keep", "simplify")), ("dev_share", (0.02, 0.5))],
)
def test_other_rules_for_a_finished_corpus_are_refused_and_both_values_shown(
    mixed: Path, models: list[str], setting: str, values: tuple[object, object], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--corpus.{setting}", str(values[1])]
    assert main(["corpus", "--config", str(mixed.parent.parent / "recipe.yaml"), *models, *flags]) == 1
    said = capsys.readouterr().err
    assert all(text in said for text in (setting, *map(str, values)))


def test_a_changed_file_is_another_corpus(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("m.en", "a cat\na dog\n"), ("m.zh", f"{CAT}\n{DOG}\n"), ("dev.tsv", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    flags = ["--corpus.train", str(tmp_path / "m.zh"), "--corpus.dev", write(tmp_path / "dev.tsv", many(4))]
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, *flags]) == 0
    (tmp_path / "m.en").write_text("a cat\na fox\n", encoding="utf-8")  # the other half of the pair
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, *flags]) == 1
    assert "train 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--corpus.train", "[{pth: a.tsv}]"], "pth"),
        (["--corpus.train", "[{path: a.tsv, weight: 2}]"], "weight"),
        (["--corpus.train", "a.tsv", "--corpus.near", "80"], "--corpus.near"),
        (["--corpus.train", "nowhere.tsv"], "nowhere.tsv"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(
    models: list[str], tmp_path: Path, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, *flags]) in (1, 2)
    assert named in capsys.readouterr().err.strip().splitlines()[-1]
