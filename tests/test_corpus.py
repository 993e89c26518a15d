"""The corpus stage: sources with weights, the split into training and dev pairs, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import encoders
from tests.corpora import CAT, DOG, many, put, write
from trainer.__main__ import main
from trainer.base.files import DamagedError
from trainer.base.recipe import CorpusSettings, Recipe, SettingsError, Source
from trainer.base.settings import corpus_name, public_settings, sources
from trainer.corpus.pairs import Pair, join, read_pairs, write_pairs
from trainer.corpus.stage import weighted_rows
from trainer.progress import Cancelled, Progress
from zhclip.prompt import normalise


def test_a_weight_takes_its_share_and_the_same_rows_each_time(tmp_path: Path) -> None:
    whole, part = write(tmp_path / "whole.tsv", many(1000)), write(tmp_path / "part.tsv", many(1000))

    def taken(weight: float) -> set[str]:
        rows = list(weighted_rows([Source(whole), Source(part, weight)]))
        assert sum(row.source == "whole.tsv" for row in rows) == 1000
        return {row.en for row in rows if row.source == "part.tsv"}

    assert 250 < len(taken(0.3)) < 350
    assert taken(0.3) == taken(0.3) < taken(0.6) < taken(1)  # a larger share holds the smaller one
    for weight in (0, -1, 1.5):
        with pytest.raises(SettingsError):
            sources([Source(whole, weight)])


def test_a_shared_file_names_its_corpora_without_their_folders(tmp_path: Path) -> None:
    a = write(tmp_path / "a.tsv", many(1))
    recipe = Recipe(corpus=CorpusSettings([Source(a, 0.5), Source("me/pairs", zh="x")], a))
    shown = public_settings(recipe)["corpus"]
    assert [source["path"] for source in shown["train"]] == ["a.tsv", "me/pairs"]
    assert (shown["train"][0]["weight"], shown["dev"]) == (0.5, "a.tsv")
    assert corpus_name(recipe.corpus) == "a.tsv"
    recipe.corpus.dev = None
    assert corpus_name(recipe.corpus) == "a.tsv + me/pairs (held out)"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    student, teacher = encoders.student(folder / "student"), encoders.clip_teacher(folder / "teacher")
    flags = ["--student.model", str(student), "--teacher.model", str(teacher), "--window", "32"]
    return [*flags, "--corpus.join", "0"]


def english_side(path: Path) -> set[str]:
    return {pair.en for pair in read_pairs(path)}


def test_without_dev_pairs_the_hash_splits_and_never_moves_a_row(models: list[str], tmp_path: Path) -> None:
    doubled = many(400) + [(f"{CAT}{n}", f"A  Dog {n}") for n in range(400)]  # the same captions, written otherwise
    small_corpus, large = write(tmp_path / "a.tsv", doubled), write(tmp_path / "b.tsv", doubled + many(900)[400:])
    splits = {}
    for name, path in (("first", small_corpus), ("again", small_corpus), ("more", large)):
        flags = ["--corpus.train", path, "--corpus.dev_share", "0.1"]
        assert main(["corpus", "--run", str(tmp_path / name), *models, *flags]) == 0
        splits[name] = {s: english_side(tmp_path / name / "corpus" / f"{s}.tsv") for s in ("train", "dev")}
    assert splits["first"]["dev"] < splits["more"]["dev"] and splits["first"]["train"] < splits["more"]["train"]
    assert 20 < len(splits["first"]["dev"]) < 65
    for split in splits.values():
        assert not {en.lower() for en in split["dev"]} & {en.lower() for en in split["train"]}
    files = sorted((tmp_path / "first" / "corpus").iterdir())
    assert [file.name for file in files] == [*("dev.tsv", "rejects.tsv", "settings.json", "summary.json", "train.tsv")]
    for file in files:
        assert file.read_bytes() == (tmp_path / "again" / "corpus" / file.name).read_bytes(), file.name


def test_the_stage_joins_training_pairs_alone(models: list[str], tmp_path: Path) -> None:
    corpus = write(tmp_path / "a.tsv", many(400))
    pairs = {}
    for share in ("0", "0.5"):
        run = tmp_path / share
        assert main(["corpus", "--run", str(run), "--corpus.train", corpus, *models, "--corpus.join", share]) == 0
        pairs[share] = [read_pairs(run / "corpus" / f"{split}.tsv") for split in ("train", "dev")]
    (plain, dev), (joined, same) = pairs.values()
    assert dev == same and len(plain) == len(joined)
    assert 0.3 < sum(one != other for one, other in zip(plain, joined)) / len(plain) < 0.7


@pytest.fixture(scope="module")
def mixed(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus stage over a mixture in YAML."""
    folder = tmp_path_factory.mktemp("mixed")
    write(folder / "a.tsv", [*many(40), (CAT, "IMG_1234"), (CAT, "a <i>cat</i>"), ("\u4e00\u5c01<b>", "www.x.org")])
    write(folder / "b.tsv", [(f"{CAT}{n}", f"a cat {n}") for n in range(200)])
    write(folder / "dev.tsv", many(50)[40:] + [(f"{DOG}3", "in train too")])
    train = [{"path": str(folder / "a.tsv")}, {"path": str(folder / "b.tsv"), "weight": 0.5}]
    recipe = {"run": str(folder / "run"), "corpus": {"train": train, "dev": str(folder / "dev.tsv")}}
    put(folder / "recipe.yaml", json.dumps(recipe))  # JSON is YAML
    assert main(["corpus", "--config", str(folder / "recipe.yaml"), *models]) == 0
    return folder / "run" / "corpus"


def test_a_mixture_writes_pairs_and_every_reject(mixed: Path) -> None:
    summary = json.loads((mixed / "summary.json").read_text(encoding="utf-8"))
    train = english_side(mixed / "train.tsv")
    assert sum(en.startswith("a dog") for en in train) == 39
    assert 70 < sum(en.startswith("a cat") for en in train) < 130
    rejected = {"also in dev": 1, "boilerplate": 2, "file name": 1}
    assert summary["train"] == {"rows": len(train), "rejected": rejected}
    rejects = [line.split("\t")[:3] for line in (mixed / "rejects.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    reasons = {5: "also in dev", 42: "file name", 43: "boilerplate", 44: "boilerplate"}
    assert rejects == [["train", f"a.tsv:{row}", reason] for row, reason in reasons.items()]


@pytest.mark.parametrize(("setting", "values"), [("near", (0.9, 0.8)), ("dev_share", (0.02, 0.5))])
def test_other_rules_for_a_finished_corpus_are_refused_and_both_values_shown(
    mixed: Path, models: list[str], setting: str, values: tuple[object, object], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--corpus.{setting}", str(values[1])]
    assert main(["corpus", "--config", str(mixed.parent.parent / "recipe.yaml"), *models, *flags]) == 1
    error = capsys.readouterr().err
    assert all(text in error for text in (setting, *map(str, values)))


def test_a_changed_file_is_another_corpus(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "train.tsv", [(CAT, "a cat"), (DOG, "a dog")])
    flags = ["--corpus.train", train, "--corpus.dev", write(tmp_path / "dev.tsv", many(4))]
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, *flags]) == 0
    write(tmp_path / "train.tsv", [(CAT, "a cat"), (DOG, "a fox")])
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, *flags]) == 1
    assert "train 0" in capsys.readouterr().err


@pytest.mark.parametrize("train", ["[{pth: a.tsv}]", "[{path: a.tsv, weight: 2}]", "nowhere.tsv"])
def test_a_source_that_cannot_be_is_refused_in_one_line(
    models: list[str], tmp_path: Path, train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "--run", str(tmp_path / "run"), *models, "--corpus.train", train]) in (1, 2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert any(word in last for word in ("pth", "weight", "nowhere.tsv"))


def test_pairs_are_read_back_or_refused(tmp_path: Path) -> None:
    path, pairs = tmp_path / "p.tsv", [Pair(CAT, "a cat"), Pair(DOG, 'a "dog" #1')]
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")
    with pytest.raises(DamagedError):
        read_pairs(path)
    with pytest.raises(SettingsError):
        read_pairs(tmp_path / "q.tsv")


def test_reading_reports_progress_and_can_be_cancelled(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "zh\ten\n" + f"{CAT}\ta cat\n" * 5000)
    events: list[int] = []

    def listener(event: Progress) -> None:
        events.append(event.done)
        if event.done >= 3000:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(weighted_rows([Source(str(path))], listener))
    assert events == [1000, 2000, 3000]


def test_a_share_of_the_pairs_is_followed_by_others_on_both_sides_alike() -> None:
    pairs = [Pair(f"{CAT}{n}.", f"A cat {n}.") for n in range(1000)]
    both = {pair.zh.rstrip("."): pair.en.rstrip(".") for pair in pairs}
    joined = join(pairs, 0.6, len, len, 40)
    assert join(pairs, 0.0, len, len, 40) == pairs
    assert joined == join(pairs, 0.6, len, len, 40)
    longer = [(own, pair) for own, pair in zip(pairs, joined) if own != pair]
    assert 550 < len(longer) < 650
    counts = set()
    for own, pair in longer:
        assert normalise(pair.zh) == pair.zh and len(pair.zh) <= 40 and len(pair.en) <= 40
        mark = "," if "," in pair.zh else "."
        chinese, english = pair.zh.removesuffix(".").split(mark), pair.en.removesuffix(".").split(f"{mark} ")
        assert chinese[0] == own.zh.rstrip(".") and [both[zh] for zh in chinese] == english
        counts.add(len(chinese))
    assert counts >= {2, 3, 4}
