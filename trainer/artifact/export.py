"""From a checkpoint to the artifact, read back and compared before it is called done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import BertModel

from zhclip.artifact import Artifact, CorpusInfo, Meta, TeacherInfo, load, save

from .. import corpus
from ..base import Recipe, SettingsError, default_device, install_folder, public, public_name, read_json
from ..cache import Cache
from ..encoders import Student, dimensions_of
from ..report import Finished, strategy_name

# Of a vector's difference from the trained model's, over its norm: what fp32 arithmetic leaves, and what rounding does.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3}
POSITIONS = "embeddings.position_embeddings.weight"
SAMPLE = 64
FILE = "encoder.safetensors"
MAKING = ".encoder.making"  # what a killed export leaves has random names, but lies in here


class ExportError(RuntimeError):
    """An artifact that does not do what the trained model does."""


def export_run(recipe: Recipe) -> None:
    """Stage `export`: RUN/encoder.safetensors, for lora RUN/adapter, and with --install a copy in ComfyUI.

    Raises ExportError when an output of the file differs from the trained model's by more than its numbers explain.
    """
    path = recipe.folder / FILE
    device = default_device()
    report_file = recipe.folder / "report.json"
    if not report_file.is_file():
        raise SettingsError(f"{report_file}: not there; run the evaluate stage first (`python -m trainer evaluate`)")
    run = Finished.open(recipe, device)
    student, adapter, teacher = run.student, run.adapter, run.teacher
    dev = Cache.open(recipe.cache_folder / "dev", student.depth, None)
    ids = dev.rows("ids", list(range(len(dev)))[:SAMPLE]).long()
    ids = torch.cat([ids, torch.tensor(student.tokens.windows(""))])
    before = student.encode_ids(ids).cpu()
    if adapter is not None:
        config = adapter.peft_config["default"]
        config.base_model_name_or_path = public_name(recipe.student.model)
        config.target_modules = sorted(config.target_modules)  # of a set, whose order is another in every process
        _write_folder(recipe.folder / "adapter", lambda to: adapter.save_pretrained(to, save_embedding_layers=False))
        adapter.merge_and_unload()
    pairs = corpus.read_pairs(recipe.folder / "corpus" / "train.tsv")
    artifact = Artifact(
        meta=Meta(
            dimensions=replace(dimensions_of(student.bert), positions=recipe.window),
            special_ids=student.tokens.special,
            window=recipe.window,
            mask_padding=student.mask_padding,
            position0="stored" if teacher.causal else "learnt",
            teacher=TeacherInfo(teacher.name, teacher.sha256(), teacher.layer, teacher.width),
            strategy=strategy_name(recipe),
            corpus=CorpusInfo(len(pairs), corpus.sha256(pairs)),
            licence=recipe.export.licence,
            recipe=public(recipe),
            report=read_json(report_file, "run the evaluate stage again"),
            folding={chr(code): known for code, known in student.tokens.folding.items()},
        ),
        bert=written(student.bert, recipe.window),
        tokenizer_json=student.tokens.tokenizer.to_str().encode("utf-8"),
        proj_weight=student.proj_weight,
        # one bias for all positions is written for each
        proj_bias=None if student.proj_bias is None else student.proj_bias.expand(recipe.window, -1).contiguous(),
        position0=student.structure.position0,
        empty=student.structure.empty,
        norms=student.structure.norms,
    )
    candidate = path.with_name(MAKING) / FILE
    save(rounded(artifact, getattr(torch, recipe.export.dtype)), candidate)
    after = Student.from_artifact(load(candidate)).to(device).encode_ids(ids).cpu()
    worst = float(((after - before).norm(dim=-1) / before.norm(dim=-1)).max())
    if not worst <= TOLERANCE[recipe.export.dtype]:
        candidate.unlink()
        advice = "; add --export.dtype float32" if recipe.export.dtype == "float16" else ""
        raise ExportError(f"{path}: a vector of it differs by {worst:.2e} of its norm from the trained model's{advice}")
    candidate.replace(path)
    shutil.rmtree(candidate.parent, ignore_errors=True)
    size = f"{path.stat().st_size / 1e6:.0f} MB in {recipe.export.dtype}"
    print(f"export: {path}, {size}, largest difference after reading back {worst:.1e} of a vector's norm")
    comfyui = install_folder(recipe.install)
    if comfyui:
        print(f"export: installed as {install(path, comfyui, recipe.folder.resolve().name)}")


def written(bert: BertModel, window: int) -> dict[str, torch.Tensor]:
    """The BERT's tensors as the artifact names them, with no more positions than a window has."""
    tensors = {name: tensor for name, tensor in bert.state_dict().items() if "position_ids" not in name}
    return tensors | {POSITIONS: tensors[POSITIONS][:window]}


def rounded(artifact: Artifact, dtype: torch.dtype) -> Artifact:
    """The artifact with all its tensors in `dtype`."""

    def to(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(dtype)

    return replace(
        artifact,
        bert={name: tensor.to(dtype) for name, tensor in artifact.bert.items()},
        proj_weight=to(artifact.proj_weight),
        proj_bias=to(artifact.proj_bias),
        position0=to(artifact.position0),
        empty=to(artifact.empty),
        norms=to(artifact.norms),
    )


def installed(comfyui: Path, name: str) -> Path:
    """Where the encoder of a run goes in a ComfyUI. Raises SettingsError when that is none."""
    if not (comfyui / "models").is_dir():
        raise SettingsError(f"--install {comfyui}: it has no models folder; give ComfyUI's own folder")
    return comfyui / "models" / "text_encoders" / f"zhclip-{name}.safetensors"


def install(artifact: Path, comfyui: Path, name: str) -> Path:
    """Copy the artifact to COMFYUI/models/text_encoders/zhclip-NAME.safetensors, whole or not at all."""
    target = installed(comfyui, name)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    shutil.copyfile(artifact, temporary)
    return temporary.replace(target)


def _write_folder(folder: Path, write: Callable[[str], object]) -> None:
    """Let `write` fill a temporary folder, then put it in place of `folder`."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".adapter-") as temporary:
        made = Path(temporary) / folder.name
        write(str(made))
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
