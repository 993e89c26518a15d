"""The node that trains an encoder for a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..zhclip.artifact import read_meta
from ..zhclip.models import KINDS
from ..zhclip.schema import Meta
from .common import FOLDER, core_category, encoder_names, file_in_folder, file_stamp, has_tensors, schema
from .messages import message
from .report import alignment_warning, scores, summary

if TYPE_CHECKING:
    from .host.training import Job

TABLES = (".tsv", ".csv", ".jsonl")
STARTER = "starter"
HUBS = {"huggingface.co": None, "hf-mirror.com": "https://hf-mirror.com"}  # None: huggingface_hub's own address
STUDENTS = ("bert", "chinese_clip", "chinese_clip_text_model")  # values of model_type in a config.json
PREFIX = f"{FOLDER}/"  # of a file or folder of models/text_encoders in the list of sources


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
                    options=folder_paths.get_filename_list("checkpoints") or [message("no_checkpoint")],
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
                    options=list(pair_choices()),
                    tooltip="Chinese and English captions to learn from: the starter corpus of the pack, or a table "
                    "with columns zh and en (.tsv, .csv, .jsonl) in ComfyUI's input folder, alone or with the starter.",
                ),
                io.Combo.Input(
                    "thoroughness",
                    options=["quick", "recommended", "long"],
                    tooltip="Number of pairs and passes over them. On two CPU cores with SD1.5: quick 10 to 20 "
                    "minutes, recommended 80 to 160, long 220 to 440; more cores take less, SDXL takes longer. On a "
                    "GPU minutes, not measured yet.",
                ),
                io.Combo.Input(
                    "chinese_clip",
                    options=[*HUBS, *students()],
                    tooltip="Where Chinese-CLIP's text encoder comes from: OFA-Sys/chinese-clip-vit-base-patch16 of "
                    "https://huggingface.co or its mirror https://hf-mirror.com, 0.41 GB, downloaded once when you "
                    "press Run; or a folder with a config.json, or an encoder to train on, of models/text_encoders.",
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
            name = "" if checkpoint == message("no_checkpoint") else f" {checkpoint}"
            return message("checkpoint_missing", name=name, folder=folder)
        # Other files than safetensors have no list of their tensors.
        prefixes = tuple(kind.parts[0].prefix for kind in KINDS)
        if path.lower().endswith(".safetensors") and not has_tensors(path, prefixes):
            known = message("or").join(kind.name for kind in KINDS)
            return message("no_text_encoder", checkpoint=checkpoint, kinds=known)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, pairs: str | None = None, **_: Any) -> str:
        """Changes with the checkpoint's file and the table."""
        path = folder_paths.get_full_path("checkpoints", checkpoint) if checkpoint else None
        files = (path or "", *pair_choices().get(pairs or STARTER, ()))
        return " ".join(file_stamp(file) for file in files if Path(file).is_file())

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """The encoder's CLIP, its report as picture and text, and the losses. Raises ValueError, whose message the user
        reads."""
        from .host.clip import load_clip
        from .host.training import train

        job = job_of(inputs)
        job.check()
        if not job.is_finished():
            train(job, cls.hidden.unique_id)
        meta, clip = read_meta(str(job.target)), load_clip(str(job.target))
        text = f"{job.target.name}\n{summary(meta)}"
        return io.NodeOutput(clip, report_picture(job.target.name, meta), job.losses(), text, ui=ui.PreviewText(text))


def job_of(inputs: dict[str, Any]) -> Job:
    """The training that the node's inputs describe. Raises ValueError."""
    from .host.training import STUDENT, Job

    settings = inputs | {name: inputs.get(name, 0) for name in ("training_seed", "steps")}
    checkpoint, pairs, chinese_clip = (settings[name] for name in ("checkpoint", "pairs", "chinese_clip"))
    # web/upstream.js names the file likewise.
    ending = "zhclip" if settings["thoroughness"] == "recommended" else f"zhclip-{settings['thoroughness']}"
    name = settings.pop("name").strip() or f"{Path(checkpoint).stem}-{ending}"
    target = file_in_folder(name, "name", "mine-zhclip")
    path = folder_paths.get_full_path_or_raise("checkpoints", checkpoint)
    sources = pair_choices().get(pairs)
    if sources is None:
        raise ValueError(message("no_table", pairs=pairs))
    student = STUDENT if chinese_clip in HUBS else students().get(chinese_clip)
    if student is None:
        raise ValueError(message("no_student", student=chinese_clip))
    if chinese_clip in HUBS:
        settings["chinese_clip"] = STUDENT  # the same from everywhere
    stamps = {file: file_stamp(file) for file in (path, student, *sources) if Path(file).is_file()}
    folder = Path(folder_paths.get_user_directory()) / "zhclip" / target.stem
    return Job(folder, target, Path(path), sources, student, HUBS.get(chinese_clip), settings, stamps)


def pair_choices() -> dict[str, tuple[str, ...]]:
    """The starter corpus, and each table of the input folder alone and with it -> `starter`, and paths of tables."""
    folder = Path(folder_paths.get_input_directory())
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES) if folder.is_dir() else []
    alone = {path.name: (str(path),) for path in files}
    return {STARTER: (STARTER,)} | alone | {f"{name} + {STARTER}": (*path, STARTER) for name, path in alone.items()}


def students() -> dict[str, str]:
    """Paths of the Chinese encoders in models/text_encoders by their names in the list: folders in Hugging Face layout,
    and encoders that ZhCLIP trained."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    configs = [config for folder in folders if folder.is_dir() for config in sorted(folder.glob("*/config.json"))]
    found = {f"{PREFIX}{config.parent.name}": str(config.parent) for config in configs if is_student(config)}
    return found | {f"{PREFIX}{name}": folder_paths.get_full_path_or_raise(FOLDER, name) for name in encoder_names()}


def is_student(config: Path) -> bool:
    """Whether a config.json is that of a Chinese encoder that the trainer reads."""
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") in STUDENTS
    except (OSError, ValueError, AttributeError):  # not readable, not JSON, no object
        return False


def report_picture(name: str, meta: Meta) -> torch.Tensor:
    """The verdict, and losses and retrieval beside the baselines, as ComfyUI's IMAGE."""
    from .page import Page

    page, warning = Page(name), alignment_warning(meta)
    if warning:
        page.warning(message("this_encoder", why=warning))
    else:
        page.note(message("aligned_to", teacher=meta.teacher.id))
    page.scores(scores(meta))
    return page.image()
