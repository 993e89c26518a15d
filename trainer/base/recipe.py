"""Every setting of the trainer, declared once. jsonargparse makes the command line, the YAML and --help from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .comfyui import AROUND, CLIP
from .errors import TrainerError

STARTER = "starter"  # a source's path: the corpus that comes with this pack


class SettingsError(TrainerError):
    """A setting that cannot be used, or that differs from what a finished stage was made with."""


@dataclass
class StudentSettings:
    """The encoder that knows Chinese."""

    model: str | None = "OFA-Sys/chinese-clip-vit-base-patch16"
    """Folder in Hugging Face layout or hub id: a BERT, a ChineseCLIPTextModel or a whole ChineseCLIPModel."""


@dataclass
class TeacherSettings:
    """The encoder whose output is the target."""

    model: str | None = CLIP
    """Folder or hub id (CLIPTextModel, CLIPModel, a diffusers pipeline, a BERT), or a checkpoint file, of SD1.5 or
    SDXL."""
    layer: int = -1
    """Hidden state used as the target: -1 the checkpoint's own, SD1.5's last and SDXL's last but one; -2 the one before
    it, which is SD1.5's clip skip 2."""
    tokenizer: str | None = None
    """Folder or hub id of CLIP's tokenizer, read only when the teacher is a checkpoint file, which carries none. null:
    the one that the ComfyUI around this clone ships, else openai/clip-vit-large-patch14's."""


@dataclass
class Source:
    """One corpus: a file, a folder of files, a Moses pair, a saved dataset or a dataset of the hub."""

    path: str
    """A .tsv, .csv, .jsonl (or .gz of them), .parquet, one of two Moses files or what their names have in common, a
    folder of such files, a folder that `datasets` saved, a hub id, or `starter`; `starter:60000` draws 60,000 pairs
    in place of 20,000."""
    weight: float = 1.0
    """Share of its rows that is taken, by a hash of the English side: the same rows each time."""
    zh: str = "zh"
    """Column of the Chinese side; `translation.zh` reaches into a record. Empty for English alone."""
    en: str = "en"
    """Column of the English side."""
    config: str | None = None
    """Hub: the dataset's configuration."""
    split: str = "train"
    """Hub or saved dataset: the split that is read."""
    revision: str | None = None
    """Hub: a commit or tag, so that the dataset stays as it was."""


@dataclass
class CorpusSettings:
    """Parallel captions, where they lie and which of them are kept."""

    train: list[Source] | str | None = None
    """Pairs to learn from: a path, or a list of sources with weights. null: `starter`, the corpus that comes with this
    pack, unless `english` is given."""
    dev: list[Source] | str | None = None
    """Pairs to score on. They are taken out of the training pairs where they stand there too. Without it, dev_share of
    the training pairs is held out."""
    english: list[Source] | str | None = None
    """English captions alone, cleaned into RUN/corpus/english.tsv for a translator: a table with a column en, one
    caption a line (.txt), or YFCC100M's metadata. Given alone, nothing else is made."""
    dev_share: float = 0.02
    """Without dev: the share of English captions held out, by a hash of the caption, so that a row never moves."""
    limit: int | None = None
    """Use the first so many clean training pairs only; of a mixture, those of its first sources."""
    min_han: float = 0.2
    """Least share of ideographs in the Chinese side, where a word of another script counts as one."""
    min_latin: float = 0.5
    """Least share of Latin letters among the English side's letters."""
    near: float | None = 0.9
    """English captions that share so much of their words, word pairs and triples are one (Jaccard); null keeps them."""
    script: Literal["keep", "simplify", "both"] = "keep"
    """Traditional Chinese: as written, simplified by OpenCC, or, in the training pairs, both."""


@dataclass
class CacheSettings:
    """Teacher targets and frozen student states, computed once."""

    dir: str | None = None
    """Folder of the cache, by default RUN/cache. Runs that differ in training alone can share one."""
    shard_rows: int = 1024
    """Captions a shard file. Peak memory follows it."""
    batch: int = 64
    """Captions a forward pass."""
    budget: float | None = None
    """GB that the training cache may take; null: what the disk has free. Where the targets and the frozen layers'
    output do not fit both, the targets alone are stored, and training runs the frozen layers in every step."""


LORA = {"r": 16, "lora_alpha": 64, "target_modules": ["query", "value"]}


@dataclass
class TrainSettings:
    """What learns, and how."""

    strategy: Literal["unfreeze", "lora", "ridge"] = "unfreeze"
    """unfreeze: the last layers. lora: low-rank adapters. ridge: the closed form alone, no gradient."""
    start: Literal["student", "ridge"] = "ridge"
    """Where gradient descent starts: the student as it is, or with the ridge map and biases after it."""
    layers: int | None = None
    """How many of the last layers learn, or have adapters; the output of those below can be stored. null: half of them
    for unfreeze, all for lora."""
    lora: dict[str, Any] = field(default_factory=lambda: dict(LORA))
    """lora: what peft.LoraConfig takes, by its own names: --train.lora.r 8, --train.lora.use_dora true, and so on."""
    contrast: float = 0.02
    """Weight of a contrast: each Chinese caption has to find its own English one among the step's. 0: none."""
    dev_every: int | None = 1000
    """Steps between scorings on up to 512 dev pairs, said in one line and logged as dev/skill. null: none."""
    patience: int | None = None
    """Stop after so many scorings without a better dev skill, and keep the best weights. Needs `dev_every`."""
    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warm-up: stay and decay to zero in the last 0.3 of the steps (warm-up, stable, decay), decay to zero by
    a half cosine, or stay."""
    warmup: int = 200
    """Steps of linear warm-up."""
    clip: float | None = 1.0
    """Gradient norm limit."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    batch: int = 16
    """Captions an optimiser step, over all processes and accumulation steps. Many small steps learn more than few large
    ones in the same time (docs/results.md)."""
    accumulate: int = 1
    """Split each step's batch into so many passes."""
    steps: int | None = None
    """Optimiser steps. Without it, `epochs` decides."""
    epochs: float = 8.0
    """Passes over the training pairs, when steps is not given."""
    pad_positions: int | None = 2
    """Padded positions behind its text that a caption keeps in the cache and in a step, drawn once and weighted so that
    the loss stays unbiased; null: all of them."""
    ridge_lambda: float = 1e-3
    """Ridge penalty, as a share of the mean variance of the student's features."""
    seed: int = 0
    """Order of the captions and the adapters' start."""
    save_every: int = 500
    """Steps between checkpoints."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes in it (NVIDIA from Ampere on, or a CPU with AVX512-BF16), fp16 with a
    gradient scaler on Volta and Turing, else fp32."""
    report_to: str = "tensorboard"
    """Trackers that Accelerate knows, by name."""


@dataclass
class ExportSettings:
    """The file."""

    licence: str = "unknown"
    """Licence of the file, an SPDX id: it follows from the student's, the teacher's and the corpus's."""
    dtype: Literal["float16", "float32"] = "float16"
    """Numbers of the file. float16 is half the size, and what ComfyUI computes with unless told --fp32-text-enc."""


@dataclass
class Recipe:
    """All of it."""

    run: str = "runs/sd15"
    """Folder of this run."""
    window: int = 77
    """Positions of a prompt window, start and end included. 77 for Stable Diffusion 1.5."""
    student: StudentSettings = field(default_factory=StudentSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    install: str | None = AROUND
    """A ComfyUI folder: the encoder is copied into its models/text_encoders. around: the ComfyUI in whose custom_nodes
    this clone lies, if it does. null: none."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run)

    @property
    def cache_folder(self) -> Path:
        """The cache's folder."""
        return Path(self.cache.dir) if self.cache.dir else self.folder / "cache"
