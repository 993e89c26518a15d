"""The node that fits an encoder to the CLIP of the checkpoint at hand."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from .loader import FOLDER
from .schema import schema

PAIRS = Path(__file__).parent.parent / "zhclip" / "pairs.tsv"
SENTENCES = 200  # the file begins with so many that were written whole; the others were composed from tables
GAIN = 0.1  # below this share of the loss, what is learnt is the pairs' own style: docs/calibrate.md
FORBIDDEN = frozenset('<>:"|?*\\')


class ZhCLIPCalibrate(io.ComfyNode):
    """An encoder in, the same encoder with another projection out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            node_id="ZhCLIPCalibrate",
            display_name="ZhCLIP Calibrate",
            category="ZhCLIP",
            description="Fits a ZhCLIP encoder to the CLIP of a fine-tuned SD1.5 checkpoint, from Chinese and English "
            "captions that come with the pack. No gradient: one linear map is corrected. Says how near the encoder "
            "came before and after, and leaves it alone where that does not help.",
            search_aliases=["fine-tuned checkpoint", "align", "zhclip"],
            is_output_node=True,
            inputs=[
                io.Clip.Input("zhclip", tooltip="From Load ZhCLIP Encoder."),
                io.Clip.Input("clip", tooltip="The checkpoint's own CLIP, with the LoRA that it is used with, if any."),
                io.Int.Input(
                    "pairs",
                    default=2000,
                    min=200,
                    max=2000,
                    tooltip="How many captions to use. More are more exact, and take longer in proportion.",
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip="Name of a new file in models/text_encoders, for example mine-zhclip. Empty: the result is "
                    "kept in memory only.",
                ),
            ],
            outputs=[
                io.Clip.Output("calibrated", display_name="CLIP", tooltip="In place of the encoder's CLIP."),
                io.String.Output(
                    "report",
                    display_name="STRING",
                    tooltip="How near the encoder came to this CLIP, before and after.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, save_as: str | None = None) -> bool | str:
        """True, or the sentence that appears on the node before anything runs. None when it is a link."""
        try:
            destination(save_as or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, zhclip: Any, clip: Any, pairs: int = 2000, save_as: str = "") -> io.NodeOutput:
        """The CLIP and a report. Raises ValueError or ArtifactError, whose message is what the user reads."""
        # Here and not above: they import comfy.sd, which a start of ComfyUI should not wait for on our account.
        from ..zhclip.artifact import load, save
        from .clip import encoder_of, load_clip
        from .fitting import fit
        from .teacher import Teacher, source

        target = destination(save_as)
        # Not among the validations: a workflow that is queued again, with this node's result in the cache, may go on.
        if target is not None and target.exists():
            raise ValueError(
                f"{target} is there already and is never overwritten: load it with Load ZhCLIP Encoder in place of "
                "this node, or write another name into save_as."
            )
        encoder, teacher = encoder_of(zhclip), Teacher(clip)
        old = dataclasses.replace(load(encoder.path), **encoder.changes)
        name = source(cls.hidden.prompt, cls.hidden.unique_id, "clip")
        start = time.monotonic()
        sentences, others = read_pairs(pairs)
        found = fit(zhclip, old, teacher, sentences, others)
        seconds = time.monotonic() - start
        report = [f"{os.path.basename(encoder.path)} and the CLIP of {name}: {pairs} pairs, {seconds:.0f} s."]
        report += [found["last"][0].line("Last layer", GAIN), found["skip"][0].line("Clip skip (layer -2)", GAIN)]
        changes = changes_of(old, found, name, teacher)
        calibrated = zhclip
        if not changes:
            report.append("Calibration does not help here: the encoder goes out as it came in, and no file is written.")
        elif target is None:
            calibrated = load_clip(encoder.path, {**encoder.changes, **changes})
        else:
            save(dataclasses.replace(old, **changes), target)
            calibrated = load_clip(str(target))
            report.append(f"Saved as {target}.")
        calibrated.layer_idx = zhclip.layer_idx  # a CLIP Set Last Layer before this node
        text = "\n".join(report)
        return io.NodeOutput(calibrated, text, ui=ui.PreviewText(text))


def changes_of(old: Any, found: dict[str, Any], name: str, teacher: Any) -> dict[str, Any]:
    """Fields of the artifact that a calibration replaces, its metadata among them; none where it does not help."""
    from ..zhclip.artifact import TeacherInfo

    helped = {layer: tensors for layer, (result, tensors) in found.items() if result.helps(GAIN)}
    if not helped:
        return {}
    calibration: dict[str, Any] = {layer: result.figures() for layer, (result, _) in found.items()}
    calibration |= {"applied": sorted(helped), "from": dataclasses.asdict(old.meta.teacher), "to": name}
    meta = dataclasses.replace(old.meta, report={**old.meta.report, "calibration": calibration})
    changes: dict[str, Any] = {"skip": helped["skip"]} if "skip" in helped else {}
    if "last" in helped:
        info = TeacherInfo(name, teacher.sha256(), old.meta.teacher.layer, teacher.width)
        meta = dataclasses.replace(meta, teacher=info, position0="stored")
        changes |= helped["last"]
    return {**changes, "meta": meta}


def destination(save_as: str) -> Path | None:
    """Where a new file of that name goes, None for no name. Raises ValueError for a name of no file in the folder."""
    name = save_as.strip()
    if not name:
        return None
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0]).resolve()
    path = (folder / (name if name.lower().endswith(".safetensors") else f"{name}.safetensors")).resolve()
    if FORBIDDEN & set(name) or not name.isprintable() or not path.is_relative_to(folder) or path.stem in ("", "."):
        raise ValueError(
            f"save_as is {name!r}, which is no name for a file inside {folder}: write one like mine-zhclip."
        )
    return path


def read_pairs(count: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """So many of the pack's pairs (Chinese, English): the sentences that judge, and those that are fitted."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()[1:]
    rows = [(zh, en) for zh, en in (line.split("\t") for line in lines)]
    judging = min(SENTENCES, count // 2)
    return rows[:judging], rows[SENTENCES : SENTENCES + count - judging]
