"""What goes wrong in a run's folder: a second run, damaged files, a changed corpus, NaN."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from tests import encoders, runs
from tests.runs import contents
from trainer.__main__ import main
from trainer.base.files import DamagedError, read_metadata, read_tensors
from trainer.base.recipe import TrainSettings
from trainer.cache.shards import part_names
from zhclip.io import save_tensors

CAPTIONS = f"cache/train/{part_names(None, TrainSettings.pad_positions)[0]}"
LOST = f"{CAPTIONS}/00001.safetensors"
ENCODER = "encoder.safetensors"
NEWEST = "checkpoints/step-000012.safetensors"


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a small run, but its folder."""
    return ["--config", runs.TINY, "--window", "32", *runs.flags(runs.inputs(tmp_path_factory.mktemp("inputs")))]


@pytest.fixture(scope="module")
def finished(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", "--run", str(folder), *flags]) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the unbroken run, to be damaged. Its folder has the same name, for that stands in its files."""
    folder = tmp_path / "run"
    for name, text in contents(finished).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def same(folder: Path, finished: Path) -> None:
    """All files are the unbroken run's but those that name the folder."""
    found, wanted = contents(folder), contents(finished)
    assert set(found) == set(wanted)
    assert [name for name in found if found[name] != wanted[name] and name != "recipe.yaml"] == []


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_second_run_in_one_folder_is_told_to_wait(
    copied: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["corpus", "--run", str(copied), *flags]
    hold = (
        "import sys, time, filelock as f; a = f.FileLock(sys.argv[1]); a.acquire(); print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(copied / ".lock")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        code = main(arguments)
        other.kill()  # which leaves the file, and not the lock
    assert code == 1 and f"--run {copied}: " in said(capsys)
    assert main(arguments) == 0
    shared = ["--run", str(copied.with_name("other")), *flags, "--cache.dir", str(copied / "cache")]
    assert main(["corpus", *shared]) == 0
    with FileLock(copied / "cache" / ".lock"):
        assert main(["cache", *shared]) == 1
        assert "--cache.dir" in said(capsys)
    assert main(["cache", *shared]) == 0


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_file_of_tensors_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.arange(100.0), "n": torch.tensor(3)}, {"step": "4"})
    assert read_metadata(path, "") == {"step": "4"}
    path.write_bytes({"cut": path.read_bytes()[:-9], "foreign": b"PK\3\4" * 99, "empty": b""}[damage])
    for read in (read_tensors, read_metadata):
        with pytest.raises(DamagedError, match=str(path)) as error:
            read(path, "delete it")
        assert "\n" not in str(error.value)


def test_a_damaged_shard_is_made_again_and_a_damaged_checkpoint_named(
    copied: Path, finished: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--run", str(copied), *flags]
    shard, newest = copied / LOST, copied / NEWEST
    shard.write_bytes(shard.read_bytes()[:-50])
    (copied / "checkpoints" / "final.safetensors").unlink()
    assert main(["train", *where]) == 1
    assert f"{shard}: damaged" in said(capsys)
    assert main(["cache", *where]) == 0
    newest.write_bytes(newest.read_bytes()[:-50])
    assert shard.read_bytes() == (finished / LOST).read_bytes()
    assert main(["train", *where]) == 1
    assert f"{newest}: damaged" in said(capsys)
    newest.unlink()
    assert main(["train", *where]) == 0
    same(copied, finished)


@pytest.mark.parametrize(
    "name",
    [
        "corpus/settings.json",
        "corpus/summary.json",
        "corpus/train.tsv",
        f"{CAPTIONS}/settings.json",
        "checkpoints/settings.json",
        "report.json",
        "recipe.yaml",
    ],
)
def test_a_truncated_small_file_is_named_with_its_cure(
    name: str, copied: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / name
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b":")] if name == "recipe.yaml" else content[:-20])
    stages = {"corpus/summary.json": "evaluate", "corpus/train.tsv": "cache", "report.json": "export"}
    stage = (stages | {"recipe.yaml": "evaluate"}).get(name, "run")
    given = ["--run", str(copied)] if stage == "evaluate" else ["--run", str(copied), *flags]
    assert main([stage, *given]) == 1
    sentence = said(capsys)
    assert str(path) in sentence and ("elete" in sentence or "run the" in sentence), sentence


@pytest.mark.parametrize(
    ("side", "value"), [("teacher", "nan"), ("student", "nan"), ("student", "inf"), ("teacher", "-inf")]
)
def test_weights_that_hold_no_number_are_named(
    side: str, value: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = encoders.clip_teacher if side == "teacher" else encoders.student
    folder = make(tmp_path / side)
    tensors = load_file(folder / "model.safetensors")
    name = next(
        n for n in tensors if n.endswith(("mlp.fc1.weight", "layer.1.output.dense.weight")) and "vision" not in n
    )
    tensors[name][3, 3] = float(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert main(["run", "--run", str(tmp_path / "run"), *flags, f"--{side}.model", str(folder)]) == 1
    assert f"--{side}.model" in (sentence := said(capsys)) and "not finite" in sentence


def test_targets_that_no_half_float_holds_are_named(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = encoders.clip_teacher(tmp_path / "teacher")
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.endswith("final_layer_norm.weight"))
    tensors[name] *= 1e6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert main(["run", "--run", str(tmp_path / "run"), *flags, "--teacher.model", str(folder)]) == 1
    assert "--teacher.model" in (sentence := said(capsys)) and "half precision" in sentence
