"""`python -m trainer compare` as a user runs it, on small parts of SD1.5's shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import diffusion, runs, small
from tests.host import in_host
from tests.tree import killed_at
from trainer.__main__ import main
from trainer.pictures.compare import PROMPTS, another, read_prompts
from trainer.pictures.painting import ENGLISH, encode_texts, load_pipeline, noise_errors, paint
from zhclip.schema import TeacherInfo

SIZE = ["--width", "64", "--height", "64", "--steps", "5"]
PICTURES = 2 + 2 + 2 + 1  # english, cat, paraphrase, and one empty prompt; `another` is the other column's english
ROWS = {
    "english": "reference",
    "cat": "encoder",
    "English paraphrase": "ceiling",
    "another prompt": "baseline",
    "empty prompt": "baseline",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder `sd`, an encoder cat.safetensors, and encoders and prompts that cannot be used."""
    folder = tmp_path_factory.mktemp("parts")
    diffusion.pipeline(folder / "sd")
    small.saved(folder / "cat.safetensors", teacher_width=diffusion.WIDTH)
    small.saved(folder / "wide.safetensors", teacher_width=768)
    teacher = TeacherInfo("tests/teacher", "0" * 64, -2, diffusion.WIDTH)
    small.saved(folder / "skip.safetensors", teacher_width=diffusion.WIDTH, teacher=teacher)
    tables = {"none": "zh\ten\n", "columns": "zh\tenglish\n\u72d7\ta dog\n", "blank": "zh\ten\n\u72d7\t\n"}
    for name, text in tables.items():
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


def command(parts: Path, out: Path, *more: str) -> list[str]:
    given = ["--checkpoint", str(parts / "sd"), "--encoders", f"english,{parts / 'cat.safetensors'}"]
    return ["compare", *given, *SIZE, "--out", str(out), *more]


@pytest.fixture(scope="module")
def finished(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken comparison: two prompts, one seed, five rows."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(command(parts, out)) == 0
    return out


def figures_of(out: Path) -> dict:
    return json.loads((out / "figures.json").read_text(encoding="utf-8"))


def test_every_encoder_is_beside_baselines_and_ceiling(finished: Path) -> None:
    figures = figures_of(finished)
    assert {row["label"]: row["kind"] for row in figures["rows"]} == ROWS
    assert len(figures["cells"]) == 5 * 2
    assert all(len(cell["noise_error"]) == 5 for cell in figures["cells"])
    for row in figures["rows"]:
        assert row["noise_error"] == 0 if row["label"] == "english" else 0.001 < row["noise_error"] < 2
    assert "| cat | encoder |" in (finished / "figures.md").read_text(encoding="utf-8")


def test_each_picture_carries_its_settings_and_the_page_all_pictures(finished: Path, parts: Path) -> None:
    figures, prompts = figures_of(finished), read_prompts(PROMPTS)
    for cell in figures["cells"]:
        with Image.open(finished / cell["picture"]) as image:
            assert image.size == (64, 64)
            stored = json.loads(image.text["zhclip"])  # type: ignore[attr-defined]
        assert (stored["seed"], stored["prompt"], stored["steps"]) == (cell["seed"], cell["text"], 5)
        assert stored["encoder"] == ("cat" if cell["row"] == "cat" else "english")
        assert str(parts) not in json.dumps(stored)
    assert {cell["text"] for cell in figures["cells"] if cell["row"] == "cat"} == {prompt.zh for prompt in prompts}
    assert len(list((finished / "pictures").iterdir())) == PICTURES
    page = (finished / "index.html").read_text(encoding="utf-8")
    assert all(prompt.zh in page and prompt.en in page for prompt in prompts)
    assert page.count("data:image/jpeg;base64,") == PICTURES
    assert "http" not in page and "<link" not in page and 'src="' not in page


@pytest.mark.slow
def test_a_killed_comparison_resumes_and_ends_in_the_same_bytes(finished: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    third = sorted((finished / "pictures").glob("*.png"), key=lambda path: path.stat().st_mtime_ns)[2]
    assert killed_at(out / "pictures" / third.name, *command(parts, out))
    before = {path: path.stat().st_mtime_ns for path in (out / "pictures").glob("*.png")}
    assert 3 <= len(before) < PICTURES and not (out / "figures.json").exists()
    assert main(command(parts, out)) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert runs.contents(out) == runs.contents(finished)


def test_all_rows_start_from_the_same_noise(parts: Path) -> None:
    settings = {"seed": 42, "width": 64, "height": 32, "steps": 3, "guidance": 7.5}
    pipe = load_pipeline(parts / "sd", "EulerAncestralDiscreteScheduler", "")
    one, other = (torch.randn(77 * n, diffusion.WIDTH, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    picture, inputs = paint(pipe, one, one, settings)
    again, _ = paint(pipe, one, one, settings)
    second, of_second = paint(pipe, other, one, settings)
    _, of_seed = paint(pipe, one, one, {**settings, "seed": 43})
    assert picture.tobytes() == again.tobytes() != second.tobytes()
    assert inputs["input"].shape == (3, 4, 4, 8)
    assert torch.equal(inputs["input"][0], of_second["input"][0])
    assert not torch.equal(inputs["input"][1], of_second["input"][1])
    assert not torch.equal(inputs["input"][0], of_seed["input"][0])


def test_the_noise_error_by_hand(parts: Path) -> None:
    unet = load_pipeline(parts / "sd", "DDIMScheduler", "").unet
    english, other = torch.randn(2, 77, diffusion.WIDTH, generator=torch.Generator().manual_seed(0)).unbind()
    inputs = {"input": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([900.0, 100.0])}
    errors = noise_errors(unet, inputs, english, torch.cat([other, other]))
    for error, sample, timestep in zip(errors, inputs["input"], inputs["timestep"], strict=True):
        with torch.no_grad():
            a, b = (unet(sample[None], timestep, each[None]).sample for each in (other, english))
        assert error == pytest.approx(float((a - b).norm() / b.norm()), abs=1e-5)


def test_a_checkpoint_file_is_read_as_comfyui_reads_it(parts: Path, tmp_path: Path) -> None:
    in_host("checkpoints.diffusion", tmp_path / "host")
    text = load_file(parts / "sd" / "text_encoder" / "model.safetensors")
    prefix = "cond_stage_model.transformer.text_model."
    named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    save_file(load_file(tmp_path / "host" / "unet-and-vae.safetensors") | named, tmp_path / "small.safetensors")
    pipe = load_pipeline(tmp_path / "small.safetensors", "DDIMScheduler", str(parts / "sd"))
    expected = load_file(tmp_path / "host" / "expected.safetensors")
    with torch.inference_mode():
        noise = pipe.unet(expected["latent"], 500, expected["context"]).sample
        image = pipe.vae.decode(expected["latent"]).sample
    assert (noise - expected["noise"]).abs().max() < 1e-4 and (image - expected["image"]).abs().max() < 1e-4
    whole = load_pipeline(parts / "sd", "DDIMScheduler", "")
    one, other = (encode_texts(each, ENGLISH, ["a red cat"], -1)["a red cat"] for each in (pipe, whole))
    assert (one - other).abs().max() < 1e-5


def test_weights_and_long_prompts_and_no_paraphrase(parts: Path, tmp_path: Path) -> None:
    captions = small.captions()
    prompts = tmp_path / "prompts.csv"
    zh = f"({captions[0][0]}:1.3)" + "\u3002".join(caption for caption, _ in captions[:12])
    prompts.write_text(f'en,zh\n"{captions[0][1]}, red","{zh}"\n', encoding="utf-8")
    pipe = load_pipeline(parts / "sd", "EulerDiscreteScheduler", "")
    assert len(encode_texts(pipe, str(parts / "cat.safetensors"), [zh], -1)[zh]) >= 2 * 77
    out = tmp_path / "out"
    assert main(command(parts, out, "--sampler", "EulerDiscreteScheduler", "--prompts", str(prompts))) == 0
    figures = figures_of(out)
    assert [row["label"] for row in figures["rows"]] == [label for label in ROWS if ROWS[label] != "ceiling"]
    others = [cell["text"] for cell in figures["cells"] if cell["row"] == "another prompt"]
    assert others == [read_prompts(PROMPTS)[0].en]


def test_another_prompt_is_the_next_one_or_of_the_papers() -> None:
    first, second = read_prompts(PROMPTS)
    assert another([first, second], 0) == second.en and another([first], 0) == second.en


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("--checkpoint=", "--checkpoint"),
        ("--checkpoint /nowhere/sd.safetensors", "--checkpoint /nowhere/sd.safetensors"),
        ("--encoders PARTS/sd/unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model"),
        ("--encoders PARTS/wide.safetensors", "wide.safetensors"),
        ("--encoders PARTS/cat.safetensors,PARTS/skip.safetensors", "--encoders"),
        ("--sampler Euler", "--sampler Euler"),
        ("--steps 0", "--steps 0"),
        ("--width 60", "--width 60"),
        ("--seeds 1,x", "--seeds 1,x"),
        ("--prompts PARTS/none.tsv", "none.tsv"),
        ("--prompts PARTS/columns.tsv", "columns.tsv"),
        ("--prompts PARTS/blank.tsv", "row 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: str, names: str, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(parts, tmp_path / "out", *arguments.replace("PARTS", str(parts)).split())) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("compare: ") and names in error
    assert not list((tmp_path / "out").glob("pictures/*"))
