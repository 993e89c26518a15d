"""From a checkpoint to the artifact, read back and compared before it is called done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zhclip.artifact import Artifact, CorpusInfo, Meta, PartInfo, TeacherInfo, load, save
from zhclip.io import atomic_write

from ..base.comfyui import install_folder
from ..base.device import default_device
from ..base.errors import TrainerError
from ..base.files import read_json, replacing_folder, scratch
from ..base.recipe import Recipe, SettingsError
from ..base.settings import public, public_name, require
from ..cache.shards import Cache
from ..corpus import stage as corpus
from ..models.student import Student
from ..models.tokenizer import compare_tokenizers
from ..progress import Listener
from ..report.stage import Finished, strategy_name

# Of a vector's difference from the trained model's, over its norm: what fp32 arithmetic leaves, and what rounding does.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3}
POSITIONS = "embeddings.position_embeddings.weight"
SAMPLE = 64
COMPARED = 1000  # captions by which both tokenizers are compared
FILE = "encoder.safetensors"


class ExportError(TrainerError):
    """An artifact that does not do what the trained model does."""


def export_run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Stage `export`: RUN/encoder.safetensors, for lora RUN/adapter, and with --install a copy in ComfyUI.

    Raises ExportError when an output of the file differs from the trained model's by more than its numbers explain, and
    ModelError when the stored tokenizer gives other ids than the student's own.
    """
    path, dtype = recipe.folder / FILE, recipe.export.dtype
    report = recipe.folder / "report.json"
    if not report.is_file():
        raise SettingsError(f"{report}: not there; run the evaluate stage first (`python -m trainer evaluate`)")
    run = restored(Finished.open(recipe, default_device()))
    captions = [pair.zh for pair in corpus.read_pairs(recipe.folder / "corpus" / "dev.tsv")]
    model = require(recipe.student.model, "student.model", "the student")
    compare_tokenizers(model, run.student.tokens, captions[:COMPARED])
    ids = sample(recipe, run.student)
    before = vectors(run.student, ids)
    if run.adapter is not None:
        save_adapter(recipe, run.adapter)
        run.adapter.merge_and_unload()
    artifact = rounded(trained(recipe, run, read_json(report, "run the evaluate stage again")), getattr(torch, dtype))
    with scratch(path) as folder:
        candidate = folder / FILE
        save(artifact, candidate)
        after = vectors(Student.from_artifact(load(candidate)).to(default_device()), ids)
        worst = max(float(((b - a).norm(dim=-1) / a.norm(dim=-1)).max()) for a, b in zip(before, after, strict=True))
        if not worst <= TOLERANCE[dtype]:
            advice = "; add --export.dtype float32" if dtype == "float16" else ""
            raise ExportError(
                f"{path}: a vector of it differs by {worst:.2e} of its norm from the trained model's{advice}"
            )
        candidate.replace(path)
    size = f"{path.stat().st_size / 1e6:.0f} MB in {dtype}"
    print(f"export: {path}, {size}, largest difference after reading back {worst:.1e} of a vector's norm")
    comfyui = install_folder(recipe.install)
    if comfyui:
        print(f"export: installed as {install(path, comfyui, recipe.folder.resolve().name)}")


def restored(run: Finished) -> Finished:
    """A run whose student answers with the teacher's own vectors, not with standardised ones. Changes the student."""
    student, teacher = run.student, run.teacher
    student.structure = student.structure.restored(teacher.mean, teacher.std)
    if student.pooled is not None:
        student.pooled = student.pooled.restored(teacher.pooled_mean, teacher.pooled_std)
    return run


def vectors(student: Student, ids: torch.Tensor) -> list[torch.Tensor]:
    """(N, W) ids -> conditioning (N, W, D), and the pooled vectors (N, G) where there are some."""
    return [part.cpu() for part in student.encode_both(ids) if part is not None]


def sample(recipe: Recipe, student: Student) -> torch.Tensor:
    """Ids (N, W) of some dev captions and of the empty prompt."""
    dev = Cache.open(recipe.cache_folder / "dev", student.depth, None)
    ids = dev.rows("ids", list(range(len(dev)))[:SAMPLE]).long()
    return torch.cat([ids, torch.tensor(student.tokens.windows(""))])


def save_adapter(recipe: Recipe, adapter: Any) -> None:
    """Write PEFT's adapter to RUN/adapter, with nothing in it that changes from run to run."""
    config = adapter.peft_config["default"]
    config.task_type = "FEATURE_EXTRACTION"  # without one PEFT writes the module's class, which is not transformers'
    config.base_model_name_or_path = public_name(recipe.student.model)
    config.target_modules = sorted(config.target_modules)  # of a set, whose order is another in every process
    with replacing_folder(recipe.folder / "adapter") as folder:
        adapter.save_pretrained(str(folder), save_embedding_layers=False)


def trained(recipe: Recipe, run: Finished, report: dict[str, Any]) -> Artifact:
    """The artifact of a run, with no more positions than its window has."""
    teacher, pairs = run.teacher, corpus.read_pairs(recipe.folder / "corpus" / "train.tsv")
    return artifact_of(
        run.student,
        positions=recipe.window,
        window=recipe.window,
        position0="stored" if teacher.causal else "learnt",
        teacher=TeacherInfo(teacher.name, teacher.sha256, teacher.teacher_layer, teacher.width),
        parts=tuple(map(PartInfo, teacher.kind.keys, teacher.widths or (teacher.width,))),
        pooled=teacher.pooled_width,
        strategy=strategy_name(recipe),
        corpus=CorpusInfo(len(pairs), corpus.sha256(pairs)),
        licence=recipe.export.licence,
        recipe=public(recipe),
        report=report,
    )


def artifact_of(student: Student, positions: int, window: int, **facts: Any) -> Artifact:
    """A student as the file holds it, with so many of its position embeddings. `facts`: the rest of its Meta."""
    bert = {name: tensor for name, tensor in student.bert.state_dict().items() if "position_ids" not in name}
    structure = student.structure.tensors()
    pooled = student.pooled.tensors() if student.pooled else {}
    return Artifact(
        meta=Meta(
            dimensions=replace(student.bert.dimensions, positions=positions),
            special_ids=student.tokens.special,
            tokenizer=student.tokens.info,
            window=window,
            mask_padding=student.mask_padding,
            folding={chr(code): known for code, known in student.tokens.folding.items()},
            **facts,
        ),
        bert=bert | {POSITIONS: bert[POSITIONS][:positions]},
        tokenizer=student.tokens.tensors,
        structure=structure | present(proj_weight=student.proj_weight, proj_bias=student.proj_bias),
        pooled=pooled | present(proj_weight=student.pooled_weight, proj_bias=student.pooled_bias),
    )


def present(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Those that are not None."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def rounded(artifact: Artifact, dtype: torch.dtype) -> Artifact:
    """The artifact with all but its tokenizer in `dtype`."""
    groups: dict[str, Any] = {
        group: {name: tensor.to(dtype) for name, tensor in getattr(artifact, group).items()}
        for group in ("bert", "structure", "pooled")
    }
    return replace(artifact, **groups)


def installed(comfyui: Path, name: str) -> Path:
    """Where the encoder of a run goes in a ComfyUI. Raises SettingsError when that is none."""
    if not (comfyui / "models").is_dir():
        raise SettingsError(f"--install {comfyui}: it has no models folder; give ComfyUI's own folder")
    return comfyui / "models" / "text_encoders" / f"zhclip-{name}.safetensors"


def install(artifact: Path, comfyui: Path, name: str) -> Path:
    """Copy the artifact to COMFYUI/models/text_encoders/zhclip-NAME.safetensors, whole or not at all."""
    target = installed(comfyui, name)
    with artifact.open("rb") as source, atomic_write(target) as copy:
        shutil.copyfileobj(source, copy)
    return target
