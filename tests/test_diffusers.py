"""zhclip.pipelines in diffusers' own pipelines: the page's code as written, and transformers' BERT answers the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from tests import diffusion, small
from tests.tree import ROOT, python
from trainer.models.student import Student
from zhclip import artifact as fmt
from zhclip.io import ArtifactError
from zhclip.pipelines import PromptEncoder

TOLERANCE = 1e-5
WIDTH = sum(small.SDXL_WIDTHS)
KINDS = {
    "sd15": lambda **options: small.artifact(teacher_width=WIDTH, **options),
    "sdxl": lambda **options: small.sdxl_artifact(**options),
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
UNKNOWN = "ignore:not in the encoder's vocabulary:UserWarning"
LONG = "a red cat, " * 30


def encoder_of(folder: Path, artifact: fmt.Artifact) -> tuple[PromptEncoder, DiffusionPipeline]:
    """The encoder of an artifact's file for a pipeline that it fits, and the pipeline."""
    fmt.save(artifact, folder / "encoder.safetensors")
    pipe = diffusion.pipeline_for(artifact.meta)
    return PromptEncoder(folder / "encoder.safetensors", pipe), pipe


def test_the_pages_code_runs_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "diffusers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert [len(ast.parse(block).body) for block in blocks[:2]] == [5, 5]  # as README says
    for kind, name in (("sd15", "stable-diffusion-v1-5"), ("sdxl", "stable-diffusion-xl-base-1.0")):
        artifact = KINDS[kind]()
        fmt.save(artifact, tmp_path / f"zhclip-{kind}.safetensors")
        owner = re.search(rf'"([\w-]+)/{re.escape(name)}"', page).group(1)  # type: ignore[union-attr]
        diffusion.published(artifact.meta, tmp_path / owner / name)
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    done = python("page.py", cwd=tmp_path, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and f"torch.Size([1, 77, {WIDTH}])" in done.stdout, done.stdout
    pictures = set()
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
            pictures.add(picture.tobytes())
    assert len(pictures) == page.count(".save(") + 1  # one of them saves two; no two are alike


@pytest.mark.parametrize("options", [{}, {"mask_padding": False, "window": 20, "seed": 3}], ids=["", "unmasked"])
@pytest.mark.parametrize("make", [small.artifact, small.sdxl_artifact])
@pytest.mark.filterwarnings(UNKNOWN)
def test_it_answers_as_transformers_bert_and_the_trainer_do(
    make: Callable[..., fmt.Artifact], options: dict[str, Any], tmp_path: Path
) -> None:
    artifact = make(**options)
    encoder, _ = encoder_of(tmp_path, artifact)
    prompts = small.prompts()[::4]
    prompts += small.weighted(prompts)
    found, expected = [encoder(text, text) for text in prompts], small.by_transformers(artifact, prompts)
    assert {*found[0]} == {sign + name for name in expected for sign in ("", "negative_")}
    for name, vectors in expected.items():
        for sign in ("", "negative_"):
            far = small.largest_difference([one[sign + name][0] for one in found], vectors)
            print(f"{sign}{name}: {far:.1e}")
            assert far < TOLERANCE
    student, z = Student.from_artifact(artifact), [one["prompt_embeds"][0] for one in found]
    assert small.largest_difference(z, [student.encode_prompt(text) for text in prompts]) < TOLERANCE
    assert len({float(one.sum()) for one in z}) > 0.8 * len(prompts)  # prompts differ at all


@EACH_KIND
def test_a_batch_is_its_prompts_of_one_length(kind: str, tmp_path: Path) -> None:
    encoder, pipe = encoder_of(tmp_path, KINDS[kind]())
    prompts, negatives = ["a (red:1.4) cat", LONG, "cat BREAK dog BREAK red"], ["dog", "", "cat BREAK (dog:0.5)"]
    both = encoder(prompts, negatives)
    alone = [encoder(one, other) for one, other in zip(prompts, negatives)]
    windows = [encoder.tokens.weighted_windows(text) for text in prompts + negatives]
    assert [len(one) for one in windows] == [1, 2, 3, 1, 1, 2]
    for name, x in both.items():
        assert len(x) == 3
        for one, of in zip(x, alone):
            parts = one.split(len(of[name][0])) if "pooled" not in name else [one]
            assert all(torch.allclose(part, of[name][0], atol=TOLERANCE) for part in parts), name
    assert {len(x[0]) for name, x in both.items() if "pooled" not in name} == {6 * 77}
    one_for_all = encoder(prompts, "dog")
    assert all(torch.equal(x, encoder(prompts, ["dog"] * 3)[name]) for name, x in one_for_all.items())
    images = pipe(**both, num_inference_steps=2, output_type="np").images
    assert images.shape == (3, 64, 64, 3) and not (images[0] == images[1]).all()


@EACH_KIND
def test_a_unet_answers_a_repeated_prompt_as_it_answers_the_prompt(kind: str, tmp_path: Path) -> None:
    encoder, pipe = encoder_of(tmp_path, KINDS[kind]())
    made = encoder("a (red:1.4) cat", LONG)
    repeated, alone = made["prompt_embeds"], encoder("a (red:1.4) cat", "")["prompt_embeds"]
    assert repeated.shape[1] == made["negative_prompt_embeds"].shape[1] == 2 * alone.shape[1]
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    added = {"text_embeds": made.get("pooled_prompt_embeds"), "time_ids": torch.ones(1, 6)}

    def noise(z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return pipe.unet(latent, 500, encoder_hidden_states=z, added_cond_kwargs=added).sample

    assert torch.allclose(noise(repeated), noise(alone), atol=TOLERANCE)
    assert not torch.allclose(noise(made["negative_prompt_embeds"]), noise(alone), atol=1e-3)


def test_without_a_negative_prompt_it_does_as_the_pipeline_does(tmp_path: Path) -> None:
    for kind, zeros in (("sd15", False), ("sdxl", True)):
        artifact = KINDS[kind]()
        encoder, _ = encoder_of(tmp_path, artifact)
        none, empty = encoder(["cat", "dog"]), encoder(["cat", "dog"], "")
        assert torch.equal(none["prompt_embeds"], empty["prompt_embeds"])
        for name in [name for name in none if name.startswith("negative_")]:
            assert torch.equal(none[name], torch.zeros_like(empty[name]) if zeros else empty[name]), name
        assert torch.equal(empty["negative_prompt_embeds"][1], artifact.structure["empty"])


@EACH_KIND
def test_its_dtype_is_the_unets_or_the_one_given_and_its_arithmetic_fp32(kind: str, tmp_path: Path) -> None:
    encoder, pipe = encoder_of(tmp_path, KINDS[kind]())
    path = tmp_path / "encoder.safetensors"
    for dtype in (torch.float16, torch.bfloat16):
        pipe.unet.to(dtype)
        for other in (PromptEncoder(path, pipe), PromptEncoder(path, dtype=dtype)):
            for name, x in other("(red:1.3) cat", LONG).items():
                assert x.dtype == dtype and not x.requires_grad and not x.is_inference()
                assert torch.equal(x, encoder("(red:1.3) cat", LONG)[name].to(dtype))
    alone = PromptEncoder(path)("cat")
    assert all(torch.equal(x, encoder("cat", "")[name]) for name, x in alone.items()) and len(alone) in (2, 4)


class TransformerPipeline(DiffusionPipeline):
    """One without a UNet."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae)


def test_another_kind_of_unet_or_none_is_refused(tmp_path: Path) -> None:
    pipes = {kind: diffusion.pipeline_for(make().meta) for kind, make in KINDS.items()}
    pipes["none"] = TransformerPipeline(diffusion.small_vae())
    files = {name: make() for name, make in KINDS.items()}
    files |= {"wide": small.artifact(), "pooled": small.sdxl_artifact(pooled=8)}
    for name, artifact in files.items():
        fmt.save(artifact, tmp_path / f"{name}.safetensors")
    for name, kind in (("sd15", "sdxl"), ("sdxl", "sd15"), ("wide", "sd15"), ("pooled", "sdxl"), ("sd15", "none")):
        with pytest.raises(ArtifactError) as refused:
            PromptEncoder(tmp_path / f"{name}.safetensors", pipes[kind])
        assert type(pipes[kind]).__name__ in refused.value.expected and f"{name}.safetensors" in refused.value.path


def test_prompts_that_cannot_be_encoded_are_refused(tmp_path: Path) -> None:
    encoder, _ = encoder_of(tmp_path, KINDS["sd15"]())
    refused = {
        "0 prompts and 1 negative": ([], ""),
        "2 prompts and 3 negative": (["cat", "dog"], ["a", "b", "c"]),
        "100001 characters": ("a" * 100_001, ""),
        "[13, 17] windows": (
            " BREAK ".join(["cat"] * 13),
            " BREAK ".join(["dog"] * 17),
        ),
        "41 windows and has 2050": (" BREAK ".join(["(a:1.1) (b:1.2) " * 25] * 41), ""),
    }
    for said, (prompt, negative) in refused.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            encoder(prompt, negative)


def test_what_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    encoder, _ = encoder_of(tmp_path, KINDS["sd15"]())
    with pytest.warns(UserWarning, match="read as unknown: \u2603") as warned:
        encoder("a cat \u2603")
    assert [Path(one.filename).name for one in warned] == [Path(__file__).name]
