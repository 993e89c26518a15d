"""The settings of a run; command line, YAML recipes and --help are made from these classes and docstrings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .comfyui import AROUND, CLIP
from .errors import TrainerError

DEFAULT_RUN = "runs/sd15"
STARTER = "starter"  # path of the corpus that is built in


class SettingsError(TrainerError):
    """A setting that cannot be used, or that differs from that of a finished stage."""


@dataclass
class StudentSettings:
    """The Chinese text encoder that is trained."""

    model: str | None = "OFA-Sys/chinese-clip-vit-base-patch16"
    """Folder or hub id of a BERT, ChineseCLIPTextModel or ChineseCLIPModel, or a ZhCLIP encoder to continue from."""


@dataclass
class TeacherSettings:
    """The English text encoder whose output is the training target."""

    model: str | None = CLIP
    """Folder or hub id (CLIPTextModel, CLIPModel, diffusers pipeline, BERT), or a checkpoint file of SD1.5 or SDXL."""
    layer: int = -1
    """Hidden state used as the target: -1 is the one that the checkpoint uses (the last in SD1.5, the last but one in
    SDXL), -2 the one before it (clip skip 2 of SD1.5)."""
    tokenizer: str | None = None
    """Folder or hub id of CLIP's tokenizer for a checkpoint file. null: that of the ComfyUI around, else OpenAI's."""


@dataclass
class Source:
    """One source of pairs: a file, a folder of files or a dataset of the hub."""

    path: str
    """A .tsv, .csv, .jsonl (or .gz of them) or .parquet, a folder of such files, a hub id, or `starter`;
    `starter:60000` draws 60,000 pairs in place of 20,000."""
    weight: float = 1.0
    """Share of its rows to use, chosen by a hash of the English side: the same rows each time."""
    zh: str = "zh"
    """Column of the Chinese side; `translation.zh` reads a nested field. Empty for English alone."""
    en: str = "en"
    """Column of the English side."""
    config: str | None = None
    """Hub: the dataset's configuration."""
    split: str = "train"
    """Hub: the split that is read."""
    revision: str | None = None
    """Hub: a commit or tag, so that the dataset does not change."""


@dataclass
class CorpusSettings:
    """Parallel captions: their sources and how they are cleaned."""

    train: list[Source] | str = STARTER
    """Pairs to train on: a path, or a list of sources with weights."""
    dev: list[Source] | str | None = None
    """Pairs to score on; they are removed from the training pairs. null: dev_share of those is held out."""
    dev_share: float = 0.02
    """Without dev: share of the English captions held out, chosen by a hash, so that a row never changes sides."""
    limit: int | None = None
    """Use this many clean training pairs at most, from the first sources on."""
    join: float = 0.1
    """Share of the training pairs that are followed by one to four other pairs, as far as the window allows."""
    tags: float = 0.35
    """Share of the starter's generated pairs that are lists of anime tags; more suits an anime checkpoint."""
    near: float | None = 0.9
    """Jaccard similarity of word 1- to 3-grams from which two English captions count as duplicates; null keeps all."""


@dataclass
class CacheSettings:
    """Teacher targets and outputs of the student's frozen layers, computed once."""

    dir: str | None = None
    """Folder of the cache; null: RUN/cache. Runs that differ only in training can share one."""
    shard_rows: int = 1024
    """Captions per shard file; peak memory grows with it."""
    batch: int = 64
    """Captions per forward pass."""


LORA = {"r": 16, "lora_alpha": 64, "target_modules": ["query", "value"]}


@dataclass
class TrainSettings:
    """What is trained, and how."""

    strategy: Literal["unfreeze", "lora", "ridge"] = "unfreeze"
    """unfreeze: train the last layers. lora: low-rank adapters. ridge: ridge regression alone."""
    start: Literal["student", "ridge"] = "ridge"
    """Start from the student as it is, or with the ridge regression as a projection after it."""
    layers: int | None = None
    """How many of the last layers are trained or get adapters. null: half of them for unfreeze, all for lora."""
    lora: dict[str, Any] = field(default_factory=lambda: dict(LORA))
    """lora: arguments of peft.LoraConfig by name: --train.lora.r 8, --train.lora.use_dora true, and so on."""
    contrast: float = 0.02
    """Weight of the contrastive loss between a batch's Chinese and English captions. 0: none."""
    dev_every: int | None = 1000
    """Steps between scorings on up to 512 dev pairs, in one line and in RUN/metrics.jsonl. null: none."""
    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warm-up. wsd: constant, then linear to zero over the last 0.3 of the steps; cosine: half a period."""
    warmup: int = 200
    """Steps of linear warm-up."""
    clip: float | None = 1.0
    """Limit of the gradient's norm. null: none."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    batch: int = 16
    """Captions per optimiser step, over all processes and accumulation passes."""
    accumulate: int = 1
    """Split each step's batch into this many passes."""
    steps: int | None = None
    """Optimiser steps. null: from `epochs`."""
    epochs: float = 6.0
    """Passes over the training pairs if `steps` is null."""
    pad_positions: int | None = 2
    """Padded positions per caption, drawn at random and weighted so that the loss stays unbiased. null: all."""
    ridge_lambda: float = 1e-3
    """Ridge penalty, relative to the mean variance of the student's features."""
    seed: int = 0
    """Seed of the captions' order and of the adapters' weights."""
    save_every: int = 500
    """Steps between checkpoints."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device multiplies matrices in it, else fp16 on GPUs where that is fast, else fp32 (no)."""


@dataclass
class ExportSettings:
    """The exported file."""

    licence: str = "unknown"
    """Licence of the file, an SPDX id; it follows from those of student, teacher and corpus."""
    dtype: Literal["float16", "float32"] = "float16"
    """Data type of the file's weights; ComfyUI computes in float16 by default."""


@dataclass
class Recipe:
    """All settings of a run."""

    run: str | None = None
    """Folder of this run. null: runs/sd15, or runs/sdxl if the teacher is SDXL's."""
    window: int = 77
    """Tokens of a prompt window, with start and end token. 77 for Stable Diffusion."""
    student: StudentSettings = field(default_factory=StudentSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    install: str | None = AROUND
    """A ComfyUI folder to copy the encoder to. around: the one with this clone in custom_nodes. null: no copy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the stages compute on. auto: the first NVIDIA or ROCm GPU that torch can use, else the CPU."""

    @property
    def folder(self) -> Path:
        """The run's folder; with a teacher of another kind, `trainer.pipeline.with_folder` gives the default."""
        return Path(self.run or DEFAULT_RUN)

    @property
    def cache_folder(self) -> Path:
        """The cache's folder."""
        return Path(self.cache.dir) if self.cache.dir else self.folder / "cache"
