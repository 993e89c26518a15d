"""A published encoder to an artifact, without training, read back and compared before it is called done.

Taiyi's encoder paints with the UNet that it was trained on; a Chinese-CLIP is not aligned to anything, and serves as a
comparison. Neither has a report, and so the loader node warns.
"""

from __future__ import annotations

from pathlib import Path

import torch

from zhclip.artifact import CorpusInfo, PartInfo, TeacherInfo, load, save

from ..base.files import scratch
from ..base.recipe import SettingsError
from ..base.settings import public_name, require
from ..base.stage_settings import ConvertSettings
from ..models.student import Student
from ..models.tokenizer import tokens_of
from .export import ExportError, artifact_of
from .published import Published, read

# Read by both sides when the file is checked: empty, Chinese, English, both, with signs that both keep.
SAMPLES = (
    "",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b",
    "a red cat on a blue sofa",
    "\u96e8\u4e2d\u7684\u57ce\u5e02, Van Gogh, 4k",
    "\u5c0f\u6865\u6d41\u6c34\u4eba\u5bb6" * 4,
)
TOLERANCE = 1e-4


def convert_published(settings: ConvertSettings) -> Path:
    """Stage `convert`: the artifact at --out.

    Raises ModelError for a source that the node cannot run, SettingsError, and ExportError when the file's ids or any
    of its outputs differ from what transformers makes of the source.
    """
    source = require(settings.source, "source", "the published encoder")
    out = Path(settings.out)
    if out.suffix not in (".safetensors", ".sft"):
        raise SettingsError(f"--out {out}: ComfyUI lists .safetensors files only; name it so")
    published = read(source, settings.tokenizer)
    positions = published.bert.dimensions.positions
    window = settings.window or published.window
    if not 3 <= window <= positions:
        raise SettingsError(f"--window {window}: {published.where} has {positions} positions; give 3 to {positions}")
    student = Student(published.bert, tokens_of(published.tokenizer, window, published.where), published.mask_padding)
    # As it is: no projection, no stored structure, no report.
    artifact = artifact_of(
        student,
        positions=positions,
        window=window,
        position0="learnt",
        parts=(PartInfo("l", student.bert.dimensions.width),),
        teacher=TeacherInfo("none", "", -1, student.bert.dimensions.width),
        strategy="converted",
        corpus=CorpusInfo(0, ""),
        licence=settings.licence,
        recipe={"convert": {"source": public_name(source) or source, "window": window}},
    )
    with scratch(out) as folder:
        candidate = folder / out.name
        save(artifact, candidate)
        worst = difference(published, Student.from_artifact(load(candidate)), window)
        candidate.replace(out)
    padding = "masked" if published.mask_padding else "not masked"
    print(
        f"convert: {out}, {out.stat().st_size / 1e6:.0f} MB, {window} positions, padding {padding}; "
        f"largest difference from transformers' output of the source {worst:.1e}"
    )
    return out


def difference(published: Published, made: Student, window: int) -> float:
    """Largest difference between the file's outputs and transformers' own of the source, over SAMPLES.

    Raises ExportError when it exceeds the tolerance, or when a sample's ids differ.
    """
    texts = [text for text in SAMPLES if made.tokens.length(text) <= window]
    ids, before = published.encode(texts, window)
    own = torch.tensor([made.tokens.windows(text)[0] for text in texts])
    if not torch.equal(ids, own):
        row, at = (ids != own).nonzero()[0].tolist()
        raise ExportError(
            f"{published.where}: at position {at} of {texts[row]!a} its own tokenizer has id {int(ids[row, at])} and "
            f"the file's {int(own[row, at])}; the node frames and pads as BERT does, and cannot run it"
        )
    worst = float((made.encode_ids(ids) - before).abs().max())
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{published.where}: outputs of the file differ by {worst:.2e} from the source's, over {TOLERANCE:g}"
        )
    return worst
