"""Stage `convert`: a published Chinese encoder as an artifact, without training.

Taiyi's encoder paints with the UNet that it was trained on; a Chinese-CLIP is not aligned to anything, and serves as a
comparison. Neither has a report, so the loader node warns.
"""

from __future__ import annotations

import logging
from pathlib import Path

from zhclip.artifact import save
from zhclip.schema import CorpusInfo, PartInfo, TeacherInfo

from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import ConvertSettings
from ..models.download import download_weights
from ..models.load import ModelError, load_bert, read_config, read_tokenizer, resolve
from ..models.student import Student
from ..models.tokenizer import prompt_tokenizer
from ..progress import Listener
from .export import artifact_from_student

log = logging.getLogger(__name__)
FLAG = "source"
CLIP_WINDOW = 77  # positions of SD1.5's CLIP and of every encoder aligned to it; Chinese-CLIP learnt windows of 52
PIPELINE_WINDOW = 512  # at most; a tokenizer that states no length has a very large one


def convert_published(settings: ConvertSettings, progress: Listener | None = None) -> Path:
    """Stage `convert`: the artifact at --out.

    Raises SettingsError, and ModelError for a source that the nodes cannot run.
    """
    source, out = require(settings.source, FLAG, "the published encoder"), Path(settings.out)
    if out.suffix not in (".safetensors", ".sft"):
        raise SettingsError(f"--out {out}: ComfyUI lists .safetensors files only; name it so")
    path = resolve(source, FLAG)
    where = f"--{FLAG} {path}"
    if path.is_file():
        raise ModelError(f"{where}: a file; give the folder of an encoder or pipeline, or a hub id")
    is_pipeline = (path / "text_encoder").is_dir()
    folder = path / "text_encoder" if is_pipeline else path
    # diffusers masks no padding in a pipeline's prompts unless the encoder's configuration asks for it.
    masked = bool(read_config(folder, FLAG).get("use_attention_mask")) or not is_pipeline
    download_weights(source, FLAG, progress)
    bert, tokenizer = load_bert(folder, FLAG), read_tokenizer(path, FLAG)
    positions, width = bert.dimensions.positions, bert.dimensions.width
    longest = min(tokenizer.model_max_length, PIPELINE_WINDOW) if is_pipeline else CLIP_WINDOW
    window = settings.window or min(longest, positions)
    if not 3 <= window <= positions:
        raise SettingsError(f"--window {window}: {where} has {positions} positions; give 3 to {positions}")
    student = Student(bert, prompt_tokenizer(tokenizer, window, where), masked).train(False)
    # As it is: no projection, no stored structure, no report.
    artifact = artifact_from_student(
        student,
        positions=positions,
        window=window,
        position0="learnt",
        parts=(PartInfo("l", width),),
        teacher=TeacherInfo("none", "", -1, width),
        strategy="converted",
        corpus=CorpusInfo(0, ""),
        licence=settings.licence,
        recipe={"convert": {"source": public_name(source), "window": window}},
    )
    save(artifact, out)
    padding = "masked" if masked else "not masked"
    log.info(f"convert: {out}, {out.stat().st_size / 1e6:.0f} MB, {window} positions, padding {padding}")
    return out
