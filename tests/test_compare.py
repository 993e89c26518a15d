"""`python -m trainer compare` as a user runs it, on small parts of SD1.5's shape."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import diffusion, hub, small
from tests.host import ROOT, in_host
from tests.tree import python, trainer
from trainer.__main__ import main
from trainer.cli import STAGES, stage_parser
from trainer.models.student import Student
from trainer.models.teacher import load_teacher
from trainer.pictures.agreement import agreement, reference_answers
from trainer.pictures.cells import DEFAULT, another, read_prompts
from trainer.pictures.conditioning import english
from trainer.pictures.pipeline import load_pipeline, paint
from zhclip.artifact import load
from zhclip.pipelines import one_length

SIZE = ["--width", "64", "--height", "64", "--steps", "5"]
PICTURES = 2 + 2 + 2 + 1  # english, cat, paraphrase, and one empty prompt; `another` is the other column's english
ROWS = {
    "english": "reference",
    "cat": "encoder",
    "English paraphrase": "ceiling",
    "another prompt": "floor",
    "empty prompt": "floor",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder `sd`, an encoder cat.safetensors, a whole CLIP."""
    folder = tmp_path_factory.mktemp("parts")
    diffusion.pipeline(folder / "sd")
    diffusion.whole_clip(folder / "clip")
    small.saved(folder / "cat.safetensors", teacher_width=diffusion.WIDTH)
    return folder


def command(parts: Path, out: Path, *more: str) -> list[str]:
    given = ["--checkpoint", str(parts / "sd"), "--encoders", f"english,{parts / 'cat.safetensors'}"]
    return ["compare", *given, "--clip", str(parts / "clip"), *SIZE, "--out", str(out), *more]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments], cwd=ROOT, stdout=-1, stderr=-1, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def finished(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken comparison: two prompts, one seed, five rows."""
    out = tmp_path_factory.mktemp("finished") / "out"
    process = started(command(parts, out))
    said, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems
    assert "| cat | encoder |" in said and str(out / "index.html") in said
    return out


def figures_of(out: Path) -> dict:
    return json.loads((out / "figures.json").read_text(encoding="utf-8"))


def test_every_encoder_stands_between_floors_and_ceiling(finished: Path) -> None:
    figures = figures_of(finished)
    assert {row["label"]: row["kind"] for row in figures["rows"]} == ROWS
    assert len(figures["cells"]) == 5 * 2
    for cell in figures["cells"]:
        assert len(cell["agreement"]["timesteps"]) == 5 and len(set(cell["agreement"]["layers"])) == 16
    rows = {row["label"]: row for row in figures["rows"]}
    assert rows["english"]["attention_cosine"] == pytest.approx(1, abs=1e-6)
    assert rows["english"]["noise_cosine"] == pytest.approx(1, abs=1e-6)
    for name in ("attention_error", "noise_error", "pixel_distance"):
        assert rows["english"][name] == 0
    for label in [*ROWS][1:]:
        assert rows[label]["attention_cosine"] < 0.999 and rows[label]["attention_error"] > 0.05
        assert rows[label]["noise_cosine"] < 1 and rows[label]["noise_error"] > 0
        assert rows[label]["pixel_distance"] > 0 and rows[label]["clip_distance"] > 0
        assert len(rows[label]["by_layer"]) == 16 and len(rows[label]["by_timestep"]) == 5
    assert all(-100 <= row["clip_score"] <= 100 for row in figures["rows"])


def test_each_picture_carries_its_settings(finished: Path, parts: Path) -> None:
    figures, prompts = figures_of(finished), read_prompts(DEFAULT)
    for cell in figures["cells"]:
        with Image.open(finished / cell["picture"]) as image:
            assert image.size == (64, 64)
            said = json.loads(image.text["zhclip"])  # type: ignore[attr-defined]
        assert (said["seed"], said["prompt"], said["steps"]) == (cell["seed"], cell["text"], 5)
        assert said["encoder"] == ("cat" if cell["row"] == "cat" else "english")
        assert str(parts) not in json.dumps(said)
        if cell["row"] == "another prompt":  # the other column's English picture, which is painted once
            same = [c for c in figures["cells"] if (c["row"], c["seed"]) == ("english", cell["seed"])]
            assert cell["picture"] == next(c["picture"] for c in same if c["column"] != cell["column"])
    assert {cell["text"] for cell in figures["cells"] if cell["row"] == "cat"} == {prompt.zh for prompt in prompts}
    assert len(list((finished / "pictures").iterdir())) == PICTURES


def test_the_page_needs_nothing_else(finished: Path) -> None:
    page = (finished / "index.html").read_text(encoding="utf-8")
    assert all(prompt.zh in page and prompt.en in page for prompt in read_prompts(DEFAULT))
    assert page.count("data:image/jpeg;base64,") == PICTURES
    assert "http" not in page and "<link" not in page and 'src="' not in page


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_with_the_same_bytes(finished: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(command(parts, out))
    deadline = time.monotonic() + 120
    while len(list(out.glob("pictures/*.png"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "pictures").glob("*.png")}
    assert 3 <= len(before) < PICTURES and not (out / "figures.json").exists()
    if sys.platform != "win32":  # which ends a process without a word
        assert process.returncode == 128 + signal.SIGTERM
        assert f"the same command goes on behind the {len(before)} pictures" in said.splitlines()[-1]
    (out / "pictures" / "killed.png.tmp").write_bytes(b"half of a picture")
    assert main(command(parts, out)) == 0
    assert all((out / "pictures" / name).stat().st_mtime_ns == at for name, at in before.items())
    made = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert made == sorted(path.relative_to(finished) for path in finished.rglob("*") if path.is_file())
    for name in made:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert main(command(parts, out)) == 0
    assert all((out / name).read_bytes() == (finished / name).read_bytes() for name in made)


def test_all_rows_start_from_the_same_noise(parts: Path) -> None:
    made_with = {"seed": 42, "width": 64, "height": 32, "steps": 3, "guidance": 7.5}
    for sampler in ("DDIMScheduler", "EulerAncestralDiscreteScheduler"):
        pipeline = load_pipeline(parts / "sd", sampler)
        one, other = (torch.randn(77 * n, diffusion.WIDTH, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
        png, asked = paint(pipeline, one, one, made_with)
        again, _ = paint(pipeline, one, one, made_with)
        others, asked_by_other = paint(pipeline, other, one, made_with)
        _, asked_of_seed = paint(pipeline, one, one, {**made_with, "seed": 43})
        assert png == again != others
        assert asked["input"].shape == (3, 4, 4, 8)
        assert torch.equal(asked["input"][0], asked_by_other["input"][0])
        assert not torch.equal(asked["input"][1], asked_by_other["input"][1])
        assert not torch.equal(asked["input"][0], asked_of_seed["input"][0])


def test_the_figures_are_of_keys_and_values_alone(parts: Path) -> None:
    """The first layer's figure by hand; and of the last one only what its own keys and values change."""
    pipeline = load_pipeline(parts / "sd", "DDIMScheduler")
    reference, other = torch.randn(2, 77, diffusion.WIDTH, generator=torch.Generator().manual_seed(0)).unbind()
    asked = {"input": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([900.0, 100.0])}
    answers = reference_answers(pipeline.unet, asked, reference)
    found = agreement(pipeline.unet, asked, answers, other)
    assert found["layers"][:3] == ["down 0.0", "down 0.1", "down 1.0"] and found["layers"][6] == "mid 0"
    assert found["layers"][-1] == "up 3.2" and found["timesteps"] == [900, 100]
    for at, (sample, timestep) in enumerate(zip(asked["input"], asked["timestep"])):
        inside: dict[str, list] = {"first": [], "query": [], "last": []}
        first = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
        last = pipeline.unet.up_blocks[3].attentions[2].transformer_blocks[0].attn2
        hooks = [first.register_forward_hook(lambda m, a, out, to=inside["first"]: to.append(out))]
        hooks += [last.register_forward_hook(lambda m, a, out, to=inside["last"]: to.append(out))]
        hooks += [last.register_forward_pre_hook(lambda m, a, to=inside["query"]: to.append(a[0]))]
        with torch.no_grad():
            noises = [pipeline.unet(sample[None], timestep, c[None]).sample for c in (reference, other)]
            for hook in hooks:
                hook.remove()
            own = last(inside["query"][0], encoder_hidden_states=other[None])
        english_first, other_first = inside["first"]
        cosine = torch.nn.functional.cosine_similarity(english_first, other_first, dim=-1).mean()
        assert found["attention_cosine"][at][0] == pytest.approx(float(cosine), abs=1e-5)
        expected = torch.nn.functional.cosine_similarity(inside["last"][0], own, dim=-1).mean()
        assert found["attention_cosine"][at][-1] == pytest.approx(float(expected), abs=1e-5)
        error = (noises[1] - noises[0]).norm() / noises[0].norm()
        assert found["noise_error"][at] == pytest.approx(float(error), abs=1e-5)


def test_prompts_of_any_length(parts: Path) -> None:
    teacher = load_teacher(str(parts / "sd"), 77)
    words = " ".join(f"a red cat {n}" for n in range(40))
    long = english(teacher, words)
    assert len(long) > 77 and len(long) % 77 == 0
    assert torch.equal(english(teacher, "a red cat"), teacher.encode(["a red cat"])[0][0])
    assert torch.equal(english(teacher, ""), teacher.encode([""])[0][0])
    begin = next(n for n in range(160, 0, -1) if teacher.length(" ".join(words.split()[:n])) <= 77)
    assert torch.equal(long[:77], teacher.encode([" ".join(words.split()[:begin])])[0][0])
    made = one_length(long, long[:77], long.new_zeros(154, long.shape[1]))
    assert made.shape[:2] == (3, math.lcm(len(long), 154))


def test_checkpoint_file_weights_long_prompts_and_no_paraphrase(parts: Path, tmp_path: Path) -> None:
    """A checkpoint of ComfyUI's modules: what diffusers makes of the file is what ComfyUI makes of it."""
    in_host(ROOT / "tests" / "diffusion_in_host.py", tmp_path / "host")
    text = load_file(parts / "sd" / "text_encoder" / "model.safetensors")
    prefix = "cond_stage_model.transformer.text_model."
    named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    save_file(load_file(tmp_path / "host" / "unet-and-vae.safetensors") | named, tmp_path / "small.safetensors")
    pipeline = load_pipeline(tmp_path / "small.safetensors", "DDIMScheduler")
    expected = load_file(tmp_path / "host" / "expected.safetensors")
    with torch.inference_mode():
        noise = pipeline.unet(expected["latent"], 500, expected["context"]).sample
        image = pipeline.vae.decode(expected["latent"]).sample
    assert (noise - expected["noise"]).abs().max() < 1e-4 and (image - expected["image"]).abs().max() < 1e-4

    captions = small.captions()
    prompts = tmp_path / "prompts.csv"
    zh = f"({captions[0][0]}:1.3)" + "\u3002".join(caption for caption, _ in captions[:12])
    prompts.write_text(f'en,zh\n"{captions[0][1]}, red","{zh}"\n', encoding="utf-8")
    encoder = load(parts / "cat.safetensors")
    assert len(Student.from_artifact(encoder).encode_prompt(zh)) >= 2 * 77
    arguments = ["--checkpoint", str(tmp_path / "small.safetensors"), "--tokenizer", str(parts / "sd" / "tokenizer")]
    arguments += ["--encoders", f"[{parts / 'cat.safetensors'}]", "--sampler", "EulerDiscreteScheduler", "--steps", "2"]
    out = tmp_path / "out"
    assert main(["compare", *arguments, "--prompts", str(prompts), "--width=64", "--height=64", f"--out={out}"]) == 0
    figures = figures_of(out)
    assert [row["label"] for row in figures["rows"]] == [label for label in ROWS if ROWS[label] != "ceiling"]
    assert "clip_score" not in figures["rows"][0]
    for page in ("figures.md", "index.html"):
        assert "is left out" in (out / page).read_text(encoding="utf-8")
    others = [cell["text"] for cell in figures["cells"] if cell["row"] == "another prompt"]
    assert others == [read_prompts(DEFAULT)[0].en]


@pytest.mark.slow
def test_checkpoint_and_clip_by_id_bring_no_more_than_needed(parts: Path, tmp_path: Path) -> None:
    repositories = tmp_path / "hub" / "someone"
    shutil.copytree(parts / "sd", repositories / "sd15")
    shutil.copytree(parts / "clip", repositories / "clip", ignore=shutil.ignore_patterns("text"))
    (repositories / "sd15" / "v1-5-pruned.safetensors").write_bytes(b"many gigabytes")
    (repositories / "sd15" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"many megabytes")
    (tmp_path / "one.tsv").write_text("en\tzh\na dog\t\u72d7\n", encoding="utf-8")
    given = ["--checkpoint", "someone/sd15", "--clip", "someone/clip", "--prompts", str(tmp_path / "one.tsv")]
    given += ["--seeds", "1,2", "--width", "64", "--height", "64", "--steps", "1", "--out", str(tmp_path / "out")]
    with hub.serve(tmp_path / "hub") as (endpoint, asked):
        done = trainer("compare", *given, **hub.settings(endpoint, tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert not any("pruned" in path or "fp16" in path for path in asked)
    figures = figures_of(tmp_path / "out")
    assert figures["settings"]["checkpoint"] == "someone/sd15" and figures["seeds"] == [1, 2]


def test_the_papers_table_is_a_recipe() -> None:
    found = stage_parser(STAGES["compare"]).parse_args(["--config", str(ROOT / "recipes" / "paper-table2.yaml")])
    assert (found["seeds"], found["prompts"], found["steps"]) == (42, None, 50) and len(found["encoders"]) == 3
    first, second = read_prompts(DEFAULT)
    assert (first.en, second.en) == ("A photo of an astronaut riding a horse on mars", "Dog running in the park")
    assert another([first, second], 0) == second.en and another([first], 0) == second.en


def broken_unet(parts: Path, folder: Path) -> list[str]:
    shutil.copytree(parts / "sd", folder / "sd")
    file = folder / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_out.bias"]
    save_file(tensors, file)
    return ["--checkpoint", str(folder / "sd")]


def broken_clip(parts: Path, folder: Path) -> list[str]:
    shutil.copytree(parts / "clip", folder / "clip")
    tensors = load_file(folder / "clip" / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "clip" / "model.safetensors", {"format": "pt"})
    return ["--clip", str(folder / "clip")]


def no_vae(parts: Path, folder: Path) -> list[str]:
    shutil.copytree(parts / "sd", folder / "sd", ignore=shutil.ignore_patterns("vae"))
    return ["--checkpoint", str(folder / "sd")]


def text_encoder_alone(parts: Path, folder: Path) -> list[str]:
    text = load_file(parts / "sd" / "text_encoder" / "model.safetensors")
    save_file({f"cond_stage_model.transformer.{name}": t for name, t in text.items()}, folder / "file.safetensors")
    return ["--checkpoint", str(folder / "file.safetensors"), "--tokenizer", str(parts / "sd" / "tokenizer")]


def wide_encoder(parts: Path, folder: Path) -> list[str]:
    return ["--encoders", str(small.saved(folder / "wide.safetensors", teacher_width=768))]


def two_layers(parts: Path, folder: Path) -> list[str]:
    artifact = small.artifact(teacher_width=diffusion.WIDTH)
    skipping = small.saved(
        folder / "skip.safetensors",
        teacher_width=diffusion.WIDTH,
        teacher=type(artifact.meta.teacher)("tests/teacher", "0" * 64, -2, diffusion.WIDTH),
    )
    return ["--encoders", f"{parts / 'cat.safetensors'},{skipping}"]


def table(text: str) -> Callable[[Path, Path], list[str]]:
    def write(parts: Path, folder: Path) -> list[str]:
        (folder / "p.tsv").write_text(text, encoding="utf-8")
        return ["--prompts", str(folder / "p.tsv")]

    return write


def given(*arguments: str) -> Callable[[Path, Path], list[str]]:
    return lambda parts, folder: [argument.replace("PARTS", str(parts)) for argument in arguments]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (given("--checkpoint", ""), "--checkpoint is not given"),
        (given("--checkpoint", "/nowhere/sd.safetensors"), "--checkpoint /nowhere/sd.safetensors: there is no such"),
        (given("--checkpoint", "PARTS/clip"), "no weights in unet/"),
        (no_vae, "no weights in vae/"),
        (broken_unet, "the first is conv_out.bias"),
        (text_encoder_alone, "not a whole SD1.5 checkpoint, it lacks model.diffusion_model."),
        (given("--encoders", "PARTS/none.safetensors"), "none.safetensors: found no file"),
        (given("--encoders", "PARTS/sd/unet/diffusion_pytorch_model.safetensors"), "diffusion_pytorch_model"),
        (wide_encoder, "wide.safetensors: its vectors are 768 wide, and the checkpoint's UNet reads 64"),
        (two_layers, "different layers of the CLIP (cat: -1, skip: -2)"),
        (given("--sampler", "Euler"), "--sampler Euler: diffusers has no such scheduler"),
        (given("--steps", "0"), "--steps 0: give 1 or more"),
        (given("--width", "60"), "--width 60: give a multiple of 8"),
        (given("--seeds", "1,x"), "--seeds 1,x: give whole numbers"),
        (given("--seeds", "-1"), "--seeds -1: give whole numbers from 0 on"),
        (given("--prompts", "PARTS/none.tsv"), "none.tsv: there is no such file"),
        (table("zh\ten\n"), "a header and no prompt"),
        (table("zh\tenglish\n\u72d7\ta dog\n"), "its columns are zh, english; it needs zh and en"),
        (table("zh\ten\tparaphrase\n\u72d7\ta dog\n"), "row 2 has no paraphrase"),
        (given("--clip", "PARTS/clip/text"), "clip/text: not a whole CLIPModel with its processor"),
        (broken_clip, "the first is visual_projection.weight"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    wrong: Callable[[Path, Path], list[str]],
    says: str,
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_run = ["--seeds", "1", "--steps", "1", *wrong(parts, tmp_path)]
    assert main(command(parts, tmp_path / "out", *small_run)) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("pictures/*"))


def test_without_diffusers_it_says_what_to_install(parts: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None; from trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = python("-c", code, *command(parts, tmp_path / "out"))
    assert done.returncode == 1 and "diffusers is not installed: pip install" in done.stdout.splitlines()[-1]
