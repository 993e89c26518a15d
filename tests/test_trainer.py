"""The trainer as a user runs it: real subprocesses, small encoders, every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import ChineseCLIPModel

from tests import runs
from tests.runs import TINY
from tests.tree import ROOT, python
from trainer.__main__ import main
from trainer.base.recipe import Recipe
from trainer.base.settings import parse_recipe
from trainer.pipeline import with_folder
from zhclip.artifact import load, read_meta

ZONES = {"all", "position0", "content", "end", "pad"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that name a small ChineseCLIP, a small CLIP and a corpus."""
    return ["--window", "32", *runs.flags(runs.inputs(tmp_path_factory.mktemp("inputs")))]


@pytest.fixture(scope="module")
def finished(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", "--config", TINY, "--run", str(folder), *inputs]) == 0
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_run_leaves_what_it_promises(finished: Path) -> None:
    report = read(finished / "report.json")
    assert report["rows"] >= 15 and report["window"] == 32
    baselines = ("constant", "nearest", "untrained", "ridge")
    assert {name: set(zones) for name, zones in report["baselines"].items()} == dict.fromkeys(baselines, ZONES)
    assert report["skill"] == pytest.approx(1 - report["loss"]["all"] / report["baselines"]["constant"]["all"])
    assert set(report["loss"]) == ZONES and report["loss"]["position0"] < 1e-5  # CLIP's is stored
    assert report["norm_ratio"] == pytest.approx(1, abs=0.1)
    for recalls in (report["retrieval"], *(report["baselines_retrieval"][name] for name in ("ridge", "untrained"))):
        assert set(recalls) == {"zh_to_en", "en_to_zh"} and set(recalls["zh_to_en"]) == {"R@1", "R@5", "R@10"}
    assert "| constant per position |" in (finished / "report.md").read_text(encoding="utf-8")
    summary = read(finished / "corpus" / "summary.json")
    rejected = sum(sum(split["rejected"].values()) for split in summary.values())
    rejects = (finished / "corpus" / "rejects.tsv").read_text(encoding="utf-8").splitlines()
    assert rejects[0] == "split\trow\treason\tzh\ten" and len(rejects) == 1 + rejected
    assert summary["dev"]["rows"] == report["rows"]


def test_artifact_says_what_it_is_and_not_where_it_was_made(finished: Path) -> None:
    meta = read_meta(finished / "encoder.safetensors")
    assert (meta.window, meta.position0, meta.strategy, meta.teacher.id) == (32, "stored", "ridge+unfreeze", "teacher")
    assert meta.report == read(finished / "report.json")
    assert str(finished.parent) not in json.dumps(meta.recipe)
    assert meta.corpus.rows == len((finished / "corpus" / "train.tsv").read_text(encoding="utf-8").splitlines()) - 1


def test_only_the_last_layer_and_the_projection_changed(finished: Path, inputs: list[str]) -> None:
    trained = load(finished / "encoder.safetensors")
    before = ChineseCLIPModel.from_pretrained(inputs[3]).text_model.state_dict()
    for name, tensor in trained.bert.items():
        assert torch.equal(tensor, before[name][: len(tensor)]) != name.startswith("encoder.layer.2."), name
    assert {"proj_weight", "proj_bias"} <= set(trained.structure)


def test_evaluating_the_artifact_repeats_its_report(finished: Path, inputs: list[str], tmp_path: Path) -> None:
    own, first = read(finished / "report.json"), tmp_path / "first.json"
    flags = ["--teacher.model", inputs[5], "--corpus", inputs[9], "--report", str(first)]
    assert main(["evaluate", "--artifact", str(finished / "encoder.safetensors"), *flags]) == 0
    report = read(first)
    assert report["baselines_from"] == "training pairs"
    for name in ("norm_ratio", "skill", "loss"):
        assert report[name] == pytest.approx(own[name], abs=1e-6)
    for side in ("zh_to_en", "en_to_zh"):
        assert report["retrieval"][side] == pytest.approx(own["retrieval"][side])
    assert report["baselines"]["ridge"] == pytest.approx(own["baselines"]["ridge"], abs=1e-4)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((finished / "encoder.safetensors").read_bytes())
    assert main(["evaluate", "--artifact", str(moved), *flags]) == 1  # the untrained student is not known
    assert main(["evaluate", "--artifact", str(moved), *flags, "--student.model", inputs[3]]) == 0
    assert read(first)["baselines_from"] == "the other half of the scored pairs"
    assert read(first)["loss"] == pytest.approx(own["loss"], abs=1e-6)
    assert set(read(first)["baselines"]) == set(own["baselines"])


def test_lora_leaves_an_adapter_that_peft_merges_to_the_same_weights(inputs: list[str], tmp_path: Path) -> None:
    run = tmp_path / "lora"
    lora = ["--train.strategy", "lora", "--train.lora.r", "4"]
    assert main(["run", "--config", TINY, "--run", str(run), *inputs, *lora]) == 0
    artifact = load(run / "encoder.safetensors")
    base = ChineseCLIPModel.from_pretrained(inputs[3]).text_model
    merged = PeftModel.from_pretrained(base, str(run / "adapter")).merge_and_unload().state_dict()
    before = load_file(Path(inputs[3]) / "model.safetensors")
    changed = [n for n, t in artifact.bert.items() if not torch.equal(t, before[f"text_model.{n}"][: len(t)])]
    assert changed
    assert all("query.weight" in name or "value.weight" in name for name in changed)
    for name in changed:
        assert torch.allclose(artifact.bert[name], merged[name], atol=1e-6)
    assert not any("lora" in name for name in artifact.bert)


def test_install_puts_the_file_where_comfyui_looks(finished: Path, tmp_path: Path) -> None:
    comfyui = tmp_path / "ComfyUI"
    config = ["--config", str(finished / "recipe.yaml"), "--install", str(comfyui)]
    assert main(["export", *config]) == 1
    (comfyui / "models").mkdir(parents=True)
    assert main(["export", *config]) == 0
    assert (comfyui / "models" / "text_encoders" / "zhclip-run.safetensors").is_file()
    paths = (
        f"a:\n  base_path: {tmp_path}\n  is_default: true\n  text_encoders: |\n    more/\n    last/\nb:\n  clip: c/\n"
    )
    (comfyui / "extra_model_paths.yaml").write_text(paths, encoding="utf-8")
    assert main(["export", *config]) == 0
    copy = tmp_path / "last" / "zhclip-run.safetensors"
    assert copy.read_bytes() == (finished / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("train.layers", "2", ["cache"]),
        ("train.lr", "2e-3", ["lr", "0.001", "0.002"]),
        ("window", "30", ["window", "32", "30"]),
        ("corpus.dev", "nowhere.tsv", ["nowhere.tsv"]),
        ("student.model", "./nowhere", ["./nowhere"]),
    ],
)
def test_other_settings_are_refused_in_one_line_with_both_values(
    finished: Path, flag: str, value: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "recipe.yaml").read_bytes()
    stage = {"train.layers": "train", "train.lr": "run"}.get(flag, "corpus")
    config = ["--config", str(finished / "recipe.yaml"), "--install", "null"]
    assert main([stage, *config, f"--{flag}", value]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in said), error
    assert (finished / "recipe.yaml").read_bytes() == before


def test_a_stage_called_alone_has_the_runs_settings_and_takes_flags(finished: Path) -> None:
    before = (finished / "recipe.yaml").read_bytes()
    for stage in ("cache", "train", "evaluate"):
        assert main([stage, "--run", str(finished)]) == 0
    assert (finished / "recipe.yaml").read_bytes() == before
    assert main(["export", "--run", str(finished), "--install", "null", "--export.licence", "MIT"]) == 0
    assert read_meta(finished / "encoder.safetensors").licence == "MIT"
    assert parse_recipe(finished / "recipe.yaml").export.licence == "MIT"


def test_the_default_folder_follows_the_teacher(tmp_path: Path) -> None:
    for name, prefix, folder in (
        ("xl", "conditioner.embedders.1.model.", "sdxl"),
        ("sd", "cond_stage_model.transformer.", "sd15"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file({f"{prefix}x": torch.zeros(1)}, file)
        recipe = Recipe()
        recipe.teacher.model = str(file)
        assert with_folder(recipe).folder == Path("runs") / folder


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("train.strategy", "foo"), ("train.lr", "abc"), ("train.lr", "nan"), ("train.steps", "1.5"), ("window", "2")),
        *(("device", "gpu"), ("train.batch", "0"), ("corpus.near", "1.5"), ("train.lora", "3")),
    ],
)
def test_a_wrong_value_is_one_line_without_types(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"--{flag}", value]) == 2
    error = capsys.readouterr().err
    assert f"--{flag} {value}" in error.replace("1.0", "1") and len(error.splitlines()) == 1
    assert not any(word in error for word in ("class", "typing", "Union")), error


def test_help_and_wrong_flags_wait_for_no_model_library() -> None:
    script = """
import sys
from trainer.__main__ import main
for arguments in ("run --trian.steps 3", "run --train.epoch 3", "run --help", "run --help-all"):
    try:
        print("exit code", main(arguments.split()))
    except SystemExit as end:
        print("exit code", end.code)
print("slow:", {"transformers", "peft", "datasets"} & set(sys.modules))
"""
    outputs = python("-c", script).stdout.split("exit code ")
    for output, words in zip(
        outputs,
        ("did you mean --train.steps?", "did you mean --train.epochs?", "--train.steps", "--train.ridge_lambda"),
    ):
        assert words in output
    assert [output[0] for output in outputs[1:]] == ["2", "2", "0", "0"]
    assert "--train.ridge_lambda" not in outputs[2] and "slow: set()" in outputs[-1]


def test_without_its_packages_the_command_is_one_line_with_pips() -> None:
    program = "from trainer.__main__ import main; sys.exit(main(['run']))"
    for package in ("torch", "jsonargparse", "accelerate"):
        done = python("-c", f"import sys; sys.modules['{package}'] = None; {program}")
        assert done.returncode == 1 and "Traceback" not in done.stdout
        assert package in done.stdout and " -m pip install " in done.stdout


def test_stages_say_what_must_run_before(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, before in (("cache", "corpus"), ("train", "cache"), ("export", "evaluate")):
        assert main([stage, "--config", TINY, "--run", str(tmp_path), *inputs]) == 1
        assert f"run the {before} stage first" in capsys.readouterr().err
    assert not (tmp_path / "recipe.yaml").exists()


def test_paper_presets_are_the_papers() -> None:
    recipes = {name: parse_recipe(ROOT / "recipes" / f"paper-{name}.yaml").train for name in ("unfreeze", "lora")}
    for train in recipes.values():
        assert (train.lr, train.batch, train.steps) == (5e-3, 1024, 20_000)
        assert (train.start, train.schedule, train.warmup, train.clip) == ("student", "constant", 0, None)
        assert (train.pad_positions, train.contrast) == (None, 0)
    assert (recipes["unfreeze"].strategy, recipes["unfreeze"].layers) == ("unfreeze", 3)
    assert (recipes["lora"].strategy, recipes["lora"].lora["r"], recipes["lora"].lora["lora_alpha"]) == ("lora", 16, 64)


def test_recommended_is_the_default() -> None:
    assert parse_recipe(ROOT / "recipes" / "recommended.yaml").train == Recipe().train
