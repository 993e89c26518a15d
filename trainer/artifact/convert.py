"""A published Chinese encoder to an artifact, without training, read back and compared before the file is in place.

Taiyi's encoder paints with the UNet that it was trained on; a Chinese-CLIP is not aligned to anything, and serves as a
comparison. Neither has a report, so the loader node warns.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from zhclip.artifact import load, save
from zhclip.schema import CorpusInfo, PartInfo, TeacherInfo

from ..base.files import temporary_folder
from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import ConvertSettings
from ..models.download import download_weights
from ..models.load import ModelError, load_bert, read_config, read_tokenizer, resolve
from ..models.student import Student
from ..models.tokenizer import prompt_tokenizer
from ..progress import Listener
from .export import ExportError, artifact_from_student

log = logging.getLogger(__name__)
FLAG = "source"
SAMPLES = ("", "\u4e00\u53ea\u7ea2\u8272\u7684\u732b", "\u96e8\u4e2d\u7684\u57ce\u5e02, Van Gogh, 4k")
TOLERANCE = 1e-4
CLIP_WINDOW = 77  # positions of SD1.5's CLIP and of every encoder aligned to it; Chinese-CLIP learnt windows of 52
PIPELINE_WINDOW = 512  # at most; a tokenizer that states no length has a very large one


def convert_published(settings: ConvertSettings, progress: Listener | None = None) -> Path:
    """Stage `convert`: the artifact at --out.

    Raises ModelError for a source that the nodes cannot run, SettingsError, and ExportError if the file's ids or
    outputs differ from the source's.
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
    check_vocabulary(tokenizer, bert.dimensions.vocabulary, where)
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
    with temporary_folder(out) as temporary:
        candidate = temporary / out.name
        save(artifact, candidate)
        compare(Student.from_artifact(load(candidate)), student, tokenizer, where)
        candidate.replace(out)
    padding = "masked" if masked else "not masked"
    log.info(f"convert: {out}, {out.stat().st_size / 1e6:.0f} MB, {window} positions, padding {padding}")
    return out


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, where: str) -> None:
    """Raise ModelError unless the encoder has an embedding of each token, BERT's special ones among them."""
    if tokenizer.vocab_size > rows:
        raise ModelError(f"{where}: its tokenizer has {tokenizer.vocab_size} tokens and the encoder {rows} rows")
    for name in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.unk_token):
        # transformers appends what a vocabulary lacks, with an id that the encoder never learnt
        if name is None or tokenizer.convert_tokens_to_ids(name) >= tokenizer.vocab_size:
            raise ModelError(f"{where}: its tokenizer is no BERT's, its vocabulary lacks {name}")


@torch.inference_mode()
def compare(converted: Student, source: Student, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise ExportError, which begins with `where`, if the file's ids of SAMPLES differ from the source tokenizer's, or
    its outputs from the source's."""
    window = converted.tokens.window
    texts = [text for text in SAMPLES if converted.tokens.length(text) <= window]
    batch = tokenizer(texts, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    for text, row in zip(texts, batch.input_ids.tolist()):
        if (ids := list(converted.tokens.windows(text)[0])) != row:
            raise ExportError(
                f"{where}: of {text!a} its tokenizer makes the ids {row[:20]}, and the file's {ids[:20]}: the nodes "
                "frame and pad as BERT does, and cannot run it"
            )
    mask = batch.attention_mask.bool() if source.mask_padding else torch.ones_like(batch.input_ids, dtype=torch.bool)
    worst = float((converted.encode_both(batch.input_ids)[0] - source.bert(batch.input_ids, mask)).abs().max())
    if not worst <= TOLERANCE:
        raise ExportError(f"{where}: outputs of the file differ by {worst:.2e} from the source's, over {TOLERANCE:g}")
