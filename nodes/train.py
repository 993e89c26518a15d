"""The node that trains an encoder for a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..zhclip.artifact import read_meta
from ..zhclip.models import KINDS
from .common import FOLDER, core_category, file_in_folder, file_stamp, has_tensors, schema
from .report import alignment_warning, scores, summary

if TYPE_CHECKING:
    from .host.training import Job

NO_CHECKPOINT = "(none found: put an SD1.5 or SDXL checkpoint into models/checkpoints, then press R)"
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".bin")
TABLES = (".tsv", ".csv", ".jsonl")
STARTER, AND_STARTER = "starter", " + starter"
SOURCES = ("huggingface.co", "hf-mirror.com")
PREFIX = f"{FOLDER}/"  # of a folder of models/text_encoders in the list of sources


class ZhCLIPTrain(io.ComfyNode):
    """Trains an encoder for one checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPTrain",
            display_name="Train ZhCLIP Encoder",
            category=core_category("training"),
            description="Trains a Chinese text encoder for exactly one SD1.5 or SDXL checkpoint and loads it. Cancel "
            "keeps what is done, and the next Run continues. With the same settings a finished encoder is loaded at "
            "once.",
            search_aliases=["Chinese CLIP", "align", "zhclip", "first encoder"],
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoints() or [NO_CHECKPOINT],
                    tooltip="The checkpoint that the encoder is for. Its own text encoder is the teacher; whether it "
                    "is SD1.5 or SDXL is read from the file.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the encoder, a new file in models/text_encoders. Empty: the checkpoint's name "
                    "with -zhclip.",
                ),
                io.Combo.Input(
                    "pairs",
                    options=pair_choices(),
                    tooltip="Chinese and English captions to learn from: the starter corpus of the pack, or a table "
                    "with columns zh and en (.tsv, .csv, .jsonl) in ComfyUI's input folder, alone or with the starter.",
                ),
                io.Combo.Input(
                    "thoroughness",
                    options=["quick", "recommended", "long"],
                    tooltip="Number of pairs and passes over them. On two CPU cores with SD1.5: quick about 15 "
                    "minutes, recommended 160, long 480; more cores take less, SDXL takes longer. On a GPU minutes, "
                    "not measured yet.",
                ),
                io.Combo.Input(
                    "chinese_clip",
                    options=[*SOURCES, *student_folders()],
                    tooltip="Where Chinese-CLIP's text encoder comes from: OFA-Sys/chinese-clip-vit-base-patch16 of "
                    "https://huggingface.co or its mirror https://hf-mirror.com, 0.41 GB, downloaded once when you "
                    "press Run; or a folder of models/text_encoders with a config.json.",
                ),
                io.Int.Input(
                    "training_seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    optional=True,
                    tooltip="Order of the pairs. The same seed gives the same encoder on the same machine.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10_000_000,
                    optional=True,
                    tooltip="Training steps of 16 pairs. 0: as thoroughness says.",
                ),
            ],
            outputs=[
                io.Clip.Output("clip", display_name="CLIP", tooltip="The encoder, for every node that takes a CLIP."),
                io.Image.Output(
                    "picture",
                    display_name="IMAGE",
                    tooltip="The report: the encoder's loss and retrieval beside predictors that need no training.",
                ),
                io.Custom("LOSS_MAP").Output(
                    "loss_map", display_name="LOSS_MAP", tooltip="The loss by step, for Plot Loss Graph."
                ),
                io.String.Output("report", display_name="STRING", tooltip="The file's name and the report as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """True, or the error that ComfyUI shows on the node before the queue runs; `checkpoint` is None for a link."""
        if checkpoint is None:
            return True
        path = folder_paths.get_full_path("checkpoints", checkpoint)
        if path is None:
            folder = folder_paths.get_folder_paths("checkpoints")[0]
            name = "" if checkpoint == NO_CHECKPOINT else f" {checkpoint}"
            return f"There is no checkpoint{name} in {folder}: put one there, press R, and choose it."
        if not has_text_encoder(path):
            known = " or ".join(kind.name for kind in KINDS)
            return f"{checkpoint} holds no CLIP text encoder as checkpoints of {known} do: choose another one."
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, pairs: str | None = None, **_: Any) -> str:
        """Changes with the checkpoint's file and the table."""
        path = folder_paths.get_full_path("checkpoints", checkpoint) if checkpoint else None
        tables = [file_stamp(str(file)) for file in map(Path, sources_of(pairs or STARTER)) if file.is_file()]
        return " ".join([file_stamp(path) if path else "", *tables])

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        name: str,
        pairs: str,
        thoroughness: str,
        chinese_clip: str,
        training_seed: int = 0,
        steps: int = 0,
    ) -> io.NodeOutput:
        """The encoder's CLIP, its report as picture and text, and the losses. Raises ValueError, whose message the user
        reads."""
        from .host.clip import load_clip
        from .host.progress import loss_map
        from .host.training import train

        job = job_of(checkpoint, name, pairs, thoroughness, chinese_clip, training_seed, steps)
        refusal = job.refusal()
        if refusal:
            raise ValueError(refusal)
        if not job.is_finished():
            train(job, cls.hidden.unique_id)
        text = report_text(job)
        clip = load_clip(str(job.target))
        return io.NodeOutput(clip, report_picture(job), loss_map(job.metrics()), text, ui=ui.PreviewText(text))


def job_of(
    checkpoint: str,
    name: str,
    pairs: str,
    thoroughness: str,
    chinese_clip: str,
    seed: int = 0,
    steps: int = 0,
) -> Job:
    """The training that the inputs describe. Raises ValueError."""
    from .host.training import ENDPOINTS, STUDENT, Job

    ending = "zhclip" if thoroughness == "recommended" else f"zhclip-{thoroughness}"
    target = file_in_folder(name.strip() or f"{Path(checkpoint).stem}-{ending}", "name", "mine-zhclip")
    path = folder_paths.get_full_path_or_raise("checkpoints", checkpoint)
    sources = sources_of(pairs)
    student = chinese_clip
    if student not in ENDPOINTS:
        folders = (Path(folder, student.removeprefix(PREFIX)) for folder in folder_paths.get_folder_paths(FOLDER))
        student = str(next((folder for folder in folders if (folder / "config.json").is_file()), ""))
        if not student:
            raise ValueError(f"chinese_clip {chinese_clip}: there is no such folder with a config.json; press R.")
    stamps = {"checkpoint": file_stamp(path)}
    for source in sources:
        if source != STARTER:
            if not Path(source).is_file():
                raise ValueError(f"pairs {pairs}: there is no such table in {Path(source).parent}; press R.")
            stamps[source] = file_stamp(source)
    settings = {
        "checkpoint": checkpoint,
        "pairs": pairs,
        "thoroughness": thoroughness,
        "chinese_clip": STUDENT if student in ENDPOINTS else chinese_clip,
        "training_seed": seed,
        "steps": steps,
    }
    folder = Path(folder_paths.get_user_directory()) / "zhclip" / target.stem
    return Job(folder, target, Path(path), sources, student, thoroughness, seed, steps, settings, stamps)


def checkpoints() -> list[str]:
    """Names of the checkpoints that the trainer can read."""
    return [name for name in folder_paths.get_filename_list("checkpoints") if name.lower().endswith(CHECKPOINTS)]


def has_text_encoder(path: str) -> bool:
    """Whether a checkpoint's file has the text encoder of a kind that is supported; True for a file that is not
    safetensors, which has no list of its tensors."""
    prefixes = tuple(kind.parts[0].prefix for kind in KINDS)
    return not path.lower().endswith(".safetensors") or has_tensors(path, prefixes)


def pair_choices() -> list[str]:
    """The starter corpus, and each table of the input folder alone and with the starter."""
    folder = Path(folder_paths.get_input_directory())
    files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in TABLES) if folder.is_dir() else []
    return [STARTER, *(choice for file in files for choice in (file, file + AND_STARTER))]


def sources_of(pairs: str) -> tuple[str, ...]:
    """`starter`, or paths of tables, of an entry of `pair_choices`."""
    if pairs == STARTER:
        return (STARTER,)
    path = str(Path(folder_paths.get_input_directory()) / Path(pairs.removesuffix(AND_STARTER)).name)
    return (path, STARTER) if pairs.endswith(AND_STARTER) else (path,)


def student_folders() -> list[str]:
    """Folders of models/text_encoders in Hugging Face layout."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    configs = [config for folder in folders if folder.is_dir() for config in folder.glob("*/config.json")]
    return sorted({f"{PREFIX}{config.parent.name}" for config in configs})


def report_text(job: Job) -> str:
    """The file and its report."""
    return f"{job.target.name}\n{summary(read_meta(str(job.target)))}"


def report_picture(job: Job) -> torch.Tensor:
    """The verdict, and losses and retrieval beside the baselines, as ComfyUI's IMAGE."""
    from .page import Page

    meta, page = read_meta(str(job.target)), Page(job.target.name)
    warning = alignment_warning(meta)
    if warning:
        page.warning(f"this encoder {warning}.")
    else:
        page.note(f"Aligned to {meta.teacher.id}.")
    page.scores(scores(meta))
    return page.image()
