"""The settings of the stages that are no part of a run; those of a run are in recipe.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from .recipe import StudentSettings, TeacherSettings


@dataclass
class SweepSettings:
    """Train a grid of recipes on one cache; one table."""

    grid: str | None = None
    """YAML file: `rows`, each a name with settings that differ from the recipe's (train.lr: 1.0e-3), or `config`, a
    recipe beside the grid; `settings` of all rows; `seeds`, how many."""


@dataclass
class EvaluateSettings:
    """Score a run's checkpoint on its dev pairs, or any artifact on any pairs."""

    run: str | None = None
    """Folder of a run: scores its last checkpoint, writes RUN/report.json and report.md."""
    artifact: str | None = None
    """An encoder.safetensors to score instead; needs --teacher.model and --corpus."""
    teacher: TeacherSettings = field(default_factory=lambda: TeacherSettings(model=None))
    """The artifact's teacher."""
    corpus: str | None = None
    """Pairs to score the artifact on."""
    report: str | None = None
    """Where to write the artifact's report; a .md beside it."""
    student: StudentSettings = field(default_factory=lambda: StudentSettings(model=None))
    """The untrained student, for the baselines, if the artifact is not in its run's folder."""
    translator: str | None = None
    """Folder or hub id of a model that translates Chinese into English (Marian, NLLB, M2M100): one more row, what the
    teacher makes of its English, and both sides' time for one prompt."""


@dataclass
class CompareReportsSettings:
    """Put reports over the same captions side by side, with an interval for each difference from the first."""

    reports: list[str] = field(default_factory=list)
    """Runs' folders, or report.json files; the others are compared with the first."""
    out: str | None = None
    """A Markdown file to write too."""


@dataclass
class ConvertSettings:
    """Convert a published Chinese encoder to an artifact, without training."""

    source: str | None = None
    """Folder or hub id: a diffusers pipeline with a BERT, as Taiyi's, a Chinese-CLIP, or a BERT."""
    out: str = "encoder.safetensors"
    """The artifact to write."""
    window: int | None = None
    """Tokens of a prompt window. null: what the encoder's own pipeline pads to (Taiyi: 512), 77 for a Chinese-CLIP."""
    licence: str = "unknown"
    """Licence of the published encoder, an SPDX id."""


@dataclass
class PublishSettings:
    """Write a run's model card; with --push, upload encoder, adapter and card to a model hub."""

    run: str | None = None
    """Folder of a finished run."""
    repo: str | None = None
    """Repository on the hub, created if needed. null: OWNER/zhclip-RUN of the owner who is logged in."""
    push: bool = False
    """Upload. Without it the card is written, and the files to upload are listed."""


@dataclass
class TranslateSettings:
    """Make pairs from English captions by a translation model."""

    source: str | None = None
    """English captions: any corpus, of which one column is read, or a .txt with one caption a line."""
    column: str = "en"
    """Column of the captions, where the source is a table."""
    out: str | None = None
    """Pairs to write, a .tsv with columns zh and en; beside it OUT.rejects.tsv."""
    model: str = "Helsinki-NLP/opus-mt-en-zh"
    """Folder or hub id of a model that translates English into Chinese: Marian, NLLB or M2M100."""
    beams: int = 4
    """Beams of the search; 1 is greedy, in a quarter of the CPU time."""
    max_tokens: int = 128
    """Most tokens of a caption and of a translation. Longer captions are not translated, longer output is rejected."""
    batch: int = 64
    """Captions of similar length per forward pass. A resumed run may use another number."""
    shard_rows: int = 1024
    """Captions per shard file: the most that a killed run loses, per process."""
    limit: int | None = None
    """Translate only this many rows, from the first on."""


@dataclass
class CompareSettings:
    """Paint the same prompts through several encoders and one SD1.5, and measure how similar the results are."""

    checkpoint: str | None = None
    """Stable Diffusion 1.5, or a model made of it: a folder of diffusers, a hub id or a checkpoint file."""
    encoders: str = "english"
    """The rows: artifacts, between commas; the checkpoint's own CLIP, `english`, is always one."""
    prompts: str | None = None
    """A table with columns zh and en, and perhaps paraphrase, for the upper bound. null: the paper's two prompts."""
    out: str = "runs/compare"
    """Folder of the pictures, the figures and the page. A picture that is there is not painted again."""
    seeds: str = "42"
    """One or several, between commas, of the starting noise, the same for every row."""
    sampler: str = "DDIMScheduler"
    """A scheduler of diffusers, by the name of its class."""
    steps: int = 30
    """Of the sampler."""
    guidance: float = 7.5
    """Scale of classifier-free guidance, against the encoder's own empty prompt."""
    width: int = 512
    """Of a picture, in pixels."""
    height: int = 512
    """Of a picture, in pixels."""
    layout: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Folder or hub id of an SD1.5 pipeline, for the configurations and tokenizer that a checkpoint file lacks."""
