"""Stage `export`: from the final weights to the artifact, read back and compared before it replaces an earlier one."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zhclip.artifact import Artifact, load, save
from zhclip.device import matmul_precision
from zhclip.io import atomic_write
from zhclip.schema import CorpusInfo, Meta, PartInfo, TeacherInfo
from zhclip.structure import Structure

from ..base.comfyui import encoders_folder, install_folder
from ..base.device import default_device
from ..base.errors import TrainerError
from ..base.files import read_json, temporary_folder
from ..base.recipe import Recipe, SettingsError
from ..base.settings import public_name, public_settings
from ..corpus.pairs import pairs_sha256, read_pairs
from ..models.student import Student
from ..models.teacher import Teacher
from ..models.tokenizer import compare_tokenizers
from ..progress import Listener, track
from ..report.tables import verdict
from ..training.setup import TrainedRun, strategy_name

# Norm of a vector's difference from the trained model's over the vector's own: fp32 arithmetic, or rounding to fp16.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3}
POSITIONS = "embeddings.position_embeddings.weight"
SAMPLE, BATCH = 64, 16  # dev captions that are compared, and how many at once
COMPARED = 1000  # captions by which both tokenizers are compared
FILE = "encoder.safetensors"
logger = logging.getLogger(__name__)


class ExportError(TrainerError):
    """An artifact whose outputs are not the trained model's."""


def export_run(recipe: Recipe, progress: Listener | None = None) -> None:
    """Stage `export`: RUN/encoder.safetensors, for lora RUN/adapter, and with --install a copy in ComfyUI.

    Raises SettingsError without a report, ExportError if the file's outputs differ from the trained model's by more
    than rounding explains, and ModelError if the stored tokenizer returns other ids than the student's own.
    """
    path, report = recipe.folder / FILE, recipe.folder / "report.json"
    if not report.is_file():
        raise SettingsError(f"{report}: missing; run the evaluate stage first (`python -m trainer evaluate`)")
    run = TrainedRun.open(recipe, default_device(), progress)
    restore_scale(run.student, run.teacher)
    captions = [pair.zh for pair in read_pairs(recipe.folder / "corpus" / "dev.tsv")]
    compare_tokenizers(str(recipe.student.model), run.student.tokens, captions[:COMPARED])
    ids = torch.tensor([run.student.tokens.windows(text)[0] for text in ["", *captions[:SAMPLE]]])
    with matmul_precision("highest"):
        before = outputs(run.student, ids, progress)
        if run.adapter is not None:
            save_adapter(recipe, run.adapter)
            run.adapter.merge_and_unload()
        artifact = artifact_from_run(recipe, run, read_json(report, "run the evaluate stage again"))
        with temporary_folder(path) as folder:
            candidate = folder / FILE
            save(in_dtype(artifact, getattr(torch, recipe.export.dtype)), candidate)
            after = outputs(Student.from_artifact(load(candidate)).to(default_device()), ids)
            difference = max(float(((b - a).norm(dim=-1) / a.norm(dim=-1)).max()) for a, b in zip(before, after))
            if not difference <= TOLERANCE[recipe.export.dtype]:
                advice = "; add --export.dtype float32" if recipe.export.dtype == "float16" else ""
                raise ExportError(f"{path}: outputs differ from the trained model's by {difference:.2e}{advice}")
            candidate.replace(path)
    logger.info(f"export: {path}, {path.stat().st_size / 1e6:.0f} MB in {recipe.export.dtype}")
    comfyui = install_folder(recipe.install)
    installed = install(path, comfyui, recipe.folder.resolve().name) if comfyui else None
    hint = "press R in ComfyUI" if installed else "copy it to ComfyUI's models/text_encoders and press R"
    page = report.with_suffix(".html")
    logger.info(f"{verdict(artifact.meta.report)}\nreport: {page}\nencoder: {installed or path}; {hint}")


def restore_scale(student: Student, teacher: Teacher) -> None:
    """Let the student return the teacher's own vectors instead of standardised ones."""
    student.structure = student.structure.restored(teacher.mean, teacher.std)
    if student.pooled is not None:
        student.pooled = student.pooled.restored(teacher.pooled_mean, teacher.pooled_std)


def outputs(student: Student, ids: torch.Tensor, progress: Listener | None = None) -> list[torch.Tensor]:
    """Conditioning (N, W, D) of ids (N, W), and the pooled vectors (N, G) if there are any, on the CPU."""
    parts = ids.split(BATCH)
    encoded = [student.encode_ids(part) for part in track(parts, "export", len(parts), progress)]
    return [torch.cat(column).cpu() for column in zip(*encoded) if column[0] is not None]


def save_adapter(recipe: Recipe, adapter: Any) -> None:
    """Write PEFT's adapter to RUN/adapter, the same bytes for the same weights."""
    config = adapter.peft_config["default"]
    config.task_type = "FEATURE_EXTRACTION"  # without one PEFT writes the module's class, which is not transformers'
    config.base_model_name_or_path = public_name(str(recipe.student.model))
    config.target_modules = sorted(config.target_modules)  # a set, whose order changes from process to process
    shutil.rmtree(recipe.folder / "adapter", ignore_errors=True)
    adapter.save_pretrained(str(recipe.folder / "adapter"), save_embedding_layers=False)


def artifact_from_run(recipe: Recipe, run: TrainedRun, report: dict[str, Any]) -> Artifact:
    """The artifact of a run, with as many position embeddings as its window has positions."""
    teacher, pairs = run.teacher, read_pairs(recipe.folder / "corpus" / "train.tsv")
    return artifact_from_student(
        run.student,
        positions=recipe.window,
        window=recipe.window,
        position0="stored" if teacher.causal else "learnt",
        teacher=TeacherInfo(teacher.name, teacher.sha256, teacher.teacher_layer, teacher.width),
        parts=tuple(map(PartInfo, teacher.kind.keys, teacher.widths or (teacher.width,))),
        pooled=teacher.pooled_width,
        strategy=strategy_name(recipe.train),
        corpus=CorpusInfo(len(pairs), pairs_sha256(pairs)),
        licence=recipe.export.licence,
        recipe=public_settings(recipe),
        report=report,
    )


def artifact_from_student(student: Student, positions: int, window: int, **meta: Any) -> Artifact:
    """A student as an artifact with the first `positions` of its position embeddings; `meta`: other fields of Meta."""
    bert = {name: tensor for name, tensor in student.bert.state_dict().items() if "position_ids" not in name}
    structure = replace(student.structure, proj_weight=student.proj_weight, proj_bias=student.proj_bias)
    pooled = replace(student.pooled or Structure(), proj_weight=student.pooled_weight, proj_bias=student.pooled_bias)
    return Artifact(
        meta=Meta(
            dimensions=replace(student.bert.dimensions, positions=positions),
            special_ids=student.tokens.special,
            tokenizer=student.tokens.info,
            window=window,
            mask_padding=student.mask_padding,
            folding={chr(code): known for code, known in student.tokens.folding.items()},
            **meta,
        ),
        bert=bert | {POSITIONS: bert[POSITIONS][:positions]},
        tokenizer=student.tokens.tensors,
        structure=structure.tensors(),
        pooled=pooled.tensors(),
    )


def in_dtype(artifact: Artifact, dtype: torch.dtype) -> Artifact:
    """The artifact with all but its tokenizer in `dtype`."""
    groups: dict[str, Any] = {
        group: {name: tensor.to(dtype) for name, tensor in getattr(artifact, group).items()}
        for group in ("bert", "structure", "pooled")
    }
    return replace(artifact, **groups)


def install_path(comfyui: Path, name: str) -> Path:
    """Path of a run's encoder in a ComfyUI folder. Raises SettingsError if that folder is not ComfyUI's."""
    if not (comfyui / "models").is_dir():
        raise SettingsError(f"--install {comfyui}: it has no models folder; give ComfyUI's own folder")
    return encoders_folder(comfyui) / f"zhclip-{name}.safetensors"


def install(artifact: Path, comfyui: Path, name: str) -> Path:
    """Copy the artifact to `install_path` atomically."""
    target = install_path(comfyui, name)
    with artifact.open("rb") as source, atomic_write(target) as copy:
        shutil.copyfileobj(source, copy)
    return target
