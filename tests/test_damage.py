"""What goes wrong in a run's folder: a second run, damaged files, a changed corpus, NaN."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

from tests import encoders, runs
from tests.runs import contents
from trainer.__main__ import main
from trainer.base.recipe import TrainSettings
from trainer.cache.shards import part_names

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
    found, wanted = contents(copied), contents(finished)
    assert [name for name in wanted if found[name] != wanted[name] and name != "recipe.yaml"] == []  # names the folder


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
    ("side", "tensor", "factor", "reason"),
    [
        ("teacher", "mlp.fc1.weight", "nan", "not finite"),
        ("student", "layer.1.output.dense.weight", "inf", "not finite"),
        ("teacher", "final_layer_norm.weight", "1e6", "half precision"),
    ],
)
def test_weights_whose_outputs_no_file_holds_are_named(
    side: str,
    tensor: str,
    factor: str,
    reason: str,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = (encoders.clip_teacher if side == "teacher" else encoders.student)(tmp_path / side)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith(tensor) and "vision" not in name)
    tensors[name] *= float(factor)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert main(["run", "--run", str(tmp_path / "run"), *flags, f"--{side}.model", str(folder)]) == 1
    assert f"--{side}.model" in (sentence := said(capsys)) and reason in sentence
