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
from ..models.load import ModelError, load_bert, read_config, read_tokenizer, resolve, tokenizer_folder
from ..models.student import Student
from ..models.tokenizer import tokens_of
from ..progress import Listener
from .export import ExportError, artifact_from_student

log = logging.getLogger(__name__)
FLAG = "source"
# Texts that the file is compared on: empty, Chinese, English, both, with signs that both sides keep.
SAMPLES = (
    "",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b",
    "a red cat on a blue sofa",
    "\u96e8\u4e2d\u7684\u57ce\u5e02, Van Gogh, 4k",
    "\u5c0f\u6865\u6d41\u6c34\u4eba\u5bb6" * 4,
)
TOLERANCE = 1e-4
CLIP_WINDOW = 77  # positions of SD1.5's CLIP and of every encoder aligned to it; Chinese-CLIP learnt windows of 52
PIPELINE_WINDOW = 512  # at most; a tokenizer that states no length has a very large one


def convert_published(settings: ConvertSettings, progress: Listener | None = None) -> Path:
    """Stage `convert`: the artifact at --out.

    Raises ModelError for a source that the nodes cannot run, SettingsError, and ExportError if the file's ids or
    outputs differ from the source's.
    """
    source = require(settings.source, FLAG, "the published encoder")
    out = Path(settings.out)
    if out.suffix not in (".safetensors", ".sft"):
        raise SettingsError(f"--out {out}: ComfyUI lists .safetensors files only; name it so")
    path = resolve(source, FLAG)
    where = f"--{FLAG} {path}"
    if path.is_file():
        raise ModelError(f"{where}: a file; give the folder of an encoder or pipeline, or a hub id")
    is_pipeline = (path / "text_encoder").is_dir()
    folder = path / "text_encoder" if is_pipeline else path
    config = read_config(folder, FLAG)
    download_weights(source, FLAG, progress)
    student, tokenizer, window = _load(path, folder, is_pipeline, config, settings.window)
    # As it is: no projection, no stored structure, no report.
    artifact = artifact_from_student(
        student,
        positions=student.bert.dimensions.positions,
        window=window,
        position0="learnt",
        parts=(PartInfo("l", student.bert.dimensions.width),),
        teacher=TeacherInfo("none", "", -1, student.bert.dimensions.width),
        strategy="converted",
        corpus=CorpusInfo(0, ""),
        licence=settings.licence,
        recipe={"convert": {"source": public_name(source), "window": window}},
    )
    with temporary_folder(out) as temporary:
        candidate = temporary / out.name
        save(artifact, candidate)
        worst = compare(Student.from_artifact(load(candidate)), student, tokenizer, where)
        candidate.replace(out)
    log.info(
        f"convert: {out}, {out.stat().st_size / 1e6:.0f} MB, {window} positions, padding "
        f"{'masked' if student.mask_padding else 'not masked'}; largest difference after reading back {worst:.1e}"
    )
    return out


def _load(
    path: Path, folder: Path, is_pipeline: bool, config: dict, window: int | None
) -> tuple[Student, PreTrainedTokenizerBase, int]:
    """The encoder as its own pipeline runs it, its tokenizer, and the positions of a prompt window.

    diffusers' StableDiffusionPipeline.encode_prompt pads to the tokenizer's model_max_length, 512 for Taiyi, and masks
    nothing unless the encoder's config.json has use_attention_mask.
    """
    where = f"--{FLAG} {path}"
    bert = load_bert(folder, FLAG)
    tokenizer = read_tokenizer(tokenizer_folder(path), FLAG)
    rows, positions = bert.dimensions.vocabulary, bert.dimensions.positions
    if tokenizer.vocab_size > rows:
        raise ModelError(f"{where}: its tokenizer has {tokenizer.vocab_size} tokens and the encoder {rows} rows")
    for name in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.unk_token):
        # transformers appends what a vocabulary lacks, with an id that the encoder never learnt
        if name is None or tokenizer.convert_tokens_to_ids(name) >= tokenizer.vocab_size:
            raise ModelError(f"{where}: its tokenizer is no BERT's, its vocabulary lacks {name}")
    longest = min(tokenizer.model_max_length, PIPELINE_WINDOW) if is_pipeline else CLIP_WINDOW
    window = window or min(longest, positions)
    if not 3 <= window <= positions:
        raise SettingsError(f"--window {window}: {where} has {positions} positions; give 3 to {positions}")
    masked = not is_pipeline or bool(config.get("use_attention_mask"))
    return Student(bert, tokens_of(tokenizer, window, where), masked).train(False), tokenizer, window


@torch.inference_mode()
def compare(converted: Student, source: Student, tokenizer: PreTrainedTokenizerBase, where: str) -> float:
    """Largest difference between the file's outputs and the source's over SAMPLES, the latter with its own ids.

    Raises ExportError, which begins with `where`, if it exceeds the tolerance, or if ids differ.
    """
    window = converted.tokens.window
    texts = [text for text in SAMPLES if converted.tokens.length(text) <= window]
    batch = tokenizer(texts, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    ids = torch.tensor([converted.tokens.windows(text)[0] for text in texts])
    if not torch.equal(ids, batch.input_ids):
        row, at = (ids != batch.input_ids).nonzero()[0].tolist()
        raise ExportError(
            f"{where}: at position {at} of {texts[row]!a} its tokenizer has id {int(batch.input_ids[row, at])} and the "
            f"file's {int(ids[row, at])}; the nodes frame and pad as BERT does, and cannot run it"
        )
    mask = batch.attention_mask.bool() if source.mask_padding else torch.ones_like(ids, dtype=torch.bool)
    worst = float((converted.encode_both(ids)[0] - source.bert(ids, mask)).abs().max())
    if not worst <= TOLERANCE:
        raise ExportError(f"{where}: outputs of the file differ by {worst:.2e} from the source's, over {TOLERANCE:g}")
    return worst
