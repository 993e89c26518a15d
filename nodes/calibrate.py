"""The node that fits an encoder to the CLIP of another checkpoint of its kind."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..zhclip.artifact import Artifact, load, save
from ..zhclip.calibration import CHOOSE, EVALUATE, FIT, LayerFit
from ..zhclip.device import cpu_has_bf16
from ..zhclip.models import kind_of
from ..zhclip.positions import WHOLE_EVERY, Batch, TokenPair, batches
from ..zhclip.schema import TeacherInfo
from ..zhclip.structure import Structure, structures
from .common import file_in_folder, schema
from .messages import message

if TYPE_CHECKING:
    from .host.teacher import Teacher

MIN_GAIN = 0.1  # a smaller decrease of the loss comes from the style of the pairs: docs/calibrate.md
FILE_INPUTS = ("ckpt_name", "clip_name", "lora_name")  # of stock loaders, and of most other packs'
PAIRS_FILE = Path(__file__).parent.parent / "zhclip" / "pairs.tsv"
HAND_WRITTEN = 200  # the file's first rows are sentences written by hand; the others were composed from tables


class ZhCLIPCalibrate(io.ComfyNode):
    """Fits an encoder's projection to a checkpoint's CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPCalibrate",
            display_name="ZhCLIP Calibrate",
            category="ZhCLIP",
            description="Fits a ZhCLIP encoder to the CLIP of a fine-tuned checkpoint of its own kind, from Chinese "
            "and English captions that come with the pack. No gradient: one linear map is corrected. The report says "
            "how close the encoder is before and after; where that does not help, the encoder is returned unchanged.",
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
                    tooltip="How many captions to use. More give a better fit and take proportionally longer.",
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
                    tooltip="How close the encoder is to this CLIP, before and after.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, save_as: str | None = None) -> bool | str:
        """True, or the error that ComfyUI shows on the node before the queue runs; `save_as` is None for a link."""
        try:
            destination(save_as or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, zhclip: Any, clip: Any, pairs: int = 2000, save_as: str = "") -> io.NodeOutput:
        """The CLIP and a report. Raises ValueError or ArtifactError, whose message the user reads."""
        from .host.clip import encoder_of, load_in_place_of
        from .host.teacher import Teacher

        target = destination(save_as)
        # Not in validate_inputs: a workflow that is queued again may have this node's result in the cache.
        if target is not None and target.exists():
            raise ValueError(message("never_overwritten", path=target))
        encoder = encoder_of(zhclip)
        teacher = Teacher(clip, kind_of(encoder.meta.keys))
        artifact = dataclasses.replace(load(encoder.path), **encoder.overrides)
        name = source_files(cls.hidden.prompt, cls.hidden.unique_id)
        layers = fit(zhclip, artifact, teacher, pairs)
        report = [message("calibrated", file=os.path.basename(encoder.path), name=name, pairs=pairs)]
        report += [layer_report(message(f"layer_{key}"), layer) for key, layer in layers.items()]
        fields = calibrated_fields(artifact, layers, name, teacher)
        calibrated = zhclip
        if not fields:
            report.append(message("no_help"))
        elif target is None:
            calibrated = load_in_place_of(zhclip, encoder.path, {**encoder.overrides, **fields})
        else:
            save(dataclasses.replace(artifact, **fields), target)
            calibrated = load_in_place_of(zhclip, str(target))
            report.append(message("saved_as", path=target))
        text = "\n".join(report)
        return io.NodeOutput(calibrated, text, ui=ui.PreviewText(text))


def layer_report(title: str, layer: LayerFit) -> str:
    """A line with the figures of a layer."""
    before, after = layer.before, layer.after
    losses = {"before": before.loss(), "after": after.loss(), "constant": layer.constant.loss()}
    recalls = {"recall_before": before.recall(), "recall_after": after.recall()}
    unused = "" if layer.improves(MIN_GAIN) else message("left_as_it_was", gain=MIN_GAIN)
    return message("calibrated_layer", title=title, unused=unused, **losses, **recalls)


def calibrated_fields(artifact: Artifact, layers: dict[str, LayerFit], name: str, teacher: Teacher) -> dict[str, Any]:
    """Fields of the artifact that the calibration replaces, its metadata among them; empty where it does not help."""
    improved = {key: layer.new.tensors() for key, layer in layers.items() if layer.improves(MIN_GAIN)}
    if not improved:
        return {}
    meta = artifact.meta
    figures: dict[str, Any] = {key: layer.figures() for key, layer in layers.items()}
    figures |= {"applied": sorted(improved), "from": dataclasses.asdict(meta.teacher), "to": name}
    meta = dataclasses.replace(meta, report={**meta.report, "calibration": figures})
    fields: dict[str, Any] = {key: improved[key] for key in ("skip", "pooled") if key in improved}
    if "last" in improved:
        info = TeacherInfo(name, teacher.sha256(), meta.teacher.layer, meta.teacher.width)
        meta = dataclasses.replace(meta, teacher=info, position0="stored")
        fields["structure"] = improved["last"]
    return {**fields, "meta": meta}


def source_files(prompt: Any, node: Any) -> str:
    """Names of the checkpoint and LoRA files that the `clip` input of a node comes from, read from the queued workflow
    by following inputs named clip. "a CLIP" where there are none."""
    names: list[str] = []
    while node in prompt:
        inputs = prompt[node]["inputs"]
        names += [inputs[key] for key in FILE_INPUTS if isinstance(inputs.get(key), str)]
        node = inputs["clip"][0] if isinstance(inputs.get("clip"), list) else None
    return " + ".join(reversed(names)) or "a CLIP"


def destination(save_as: str) -> Path | None:
    """Path of the new file, None for an empty name. Raises ValueError for a name that is not a file in the folder."""
    return file_in_folder(save_as.strip(), "save_as", "mine-zhclip") if save_as.strip() else None


def read_pairs(count: int) -> dict[str, list[tuple[str, str]]]:
    """`count` of the pack's pairs (Chinese, English) by use: half of the sentences for evaluation, half to choose the
    penalty, the composed pairs to be fitted."""
    lines = PAIRS_FILE.read_text(encoding="utf-8").splitlines()[1:]
    rows = [(zh, en) for zh, en in (line.split("\t") for line in lines)]
    held_out = min(HAND_WRITTEN, count // 2)
    return {
        EVALUATE: rows[:held_out:2],
        CHOOSE: rows[1:held_out:2],
        FIT: rows[HAND_WRITTEN : HAND_WRITTEN + count - held_out],
    }


def fit(zhclip: Any, artifact: Artifact, teacher: Teacher, count: int) -> dict[str, LayerFit]:
    """Fits the layers on `count` pairs: "last", "skip" for an encoder that is not aligned to clip skip itself, and
    "pooled" where the file has a pooled vector.

    Raises ValueError for an encoder and a CLIP that do not fit each other, and ComfyUI's own exception when the user
    interrupts.
    """
    from .host.bert import SKIP_LAYER
    from .host.clip import encoder_of, load_together
    from .host.teacher import with_progress

    check_match(zhclip, artifact, teacher)
    encoder, meta = encoder_of(zhclip), artifact.meta
    device = load_together(zhclip, teacher.clip)
    whole_every = WHOLE_EVERY if meta.mask_padding else 1  # unmasked padding changes the text's own states
    batches_by_use = [
        (use, batch)
        for use, pairs in read_pairs(count).items()
        for batch in batches(token_pairs(zhclip, teacher, pairs, meta.window), meta.window, whole_every)
    ]
    empty = teacher.states([teacher.windows("")[0][: meta.window]])
    aligned_layer = "skip" if meta.teacher.layer == SKIP_LAYER else "last"
    projections = {name: projection(structure) for name, structure in structures(artifact).items()}
    layers = {"last": LayerFit(projections["structure"], empty[aligned_layer][0])}
    if aligned_layer == "last" and len(meta.parts) == 1:
        layers["skip"] = LayerFit(projections.get("skip", projections["structure"]), empty["skip"][0])
    if "pooled" in projections:
        layers["pooled"] = LayerFit(projections["pooled"], empty["pooled"][0], constant_first=False)
    for use, batch in with_progress(batches_by_use):
        # A CPU with bf16 instructions multiplies in bf16 several times as fast; no effect on a GPU.
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            last, skip = encoder.states(batch.ids("zh"), device)
            y = teacher.states(batch.ids("en"))
        x = {"last": last, "skip": skip, "pooled": last[:, :1]}
        y["last"] = y[aligned_layer]
        first = Batch(batch.pairs, 1, batch.weights[:, :1])
        for name, layer in layers.items():
            layer.add(use, x[name], y[name], first if name == "pooled" else batch)
    for layer in layers.values():
        layer.solve()
    return layers


def projection(structure: Structure) -> Structure:
    """The tensors that give the vectors their directions, and those that standardise them, in fp32."""
    tensors = structure.tensors()
    names = ("proj_weight", "proj_bias", "position0", "mean", "std")
    return Structure(**{name: tensors[name].float() for name in names if name in tensors}, widths=structure.widths)


def check_match(zhclip: Any, artifact: Artifact, teacher: Teacher) -> None:
    """Raise ValueError unless the encoder can be fitted to this CLIP."""
    from .host.bert import SKIP_LAYER
    from .host.clip import has_lora

    meta = artifact.meta
    if (meta.widths, meta.pooled) != (teacher.widths, teacher.pooled_width):
        own = {"widths": meta.widths, "pooled": meta.pooled, "teacher": meta.teacher.id}
        raise ValueError(message("other_widths", **own, found=teacher.widths, found_pooled=teacher.pooled_width))
    if meta.window > teacher.positions or meta.teacher.layer not in (-1, SKIP_LAYER) or meta.dimensions.layers < 2:
        own = {"layer": meta.teacher.layer, "window": meta.window}
        raise ValueError(message("other_layer", **own, positions=teacher.positions))
    if has_lora(zhclip):
        raise ValueError(message("has_lora"))


def token_pairs(zhclip: Any, teacher: Teacher, pairs: list[tuple[str, str]], window: int) -> list[TokenPair]:
    """The pairs of which both sides fit in one window."""
    from .host.clip import tokenizer_of

    tokenizer = tokenizer_of(zhclip)
    fitting = []
    for zh, en in pairs:
        zh_windows, en_windows = tokenizer.windows(zh), teacher.windows(en)
        if len(zh_windows) > 1 or len(en_windows) > 1:
            continue
        lengths = zh_windows[0].index(tokenizer.special.end) + 1, teacher.length(en_windows[0])
        if max(lengths) <= window:
            fitting.append(TokenPair(zh_windows[0], en_windows[0][:window], *lengths))
    return fitting
