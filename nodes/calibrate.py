"""The node that fits an encoder to the CLIP of the checkpoint at hand."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.latest import io, ui

from ..zhclip.artifact import Artifact, TeacherInfo, load, save
from ..zhclip.models import kind_of
from .files import FOLDER
from .schema import schema

if TYPE_CHECKING:
    from ..zhclip.calibration import Layer

GAIN = 0.1  # below this share of the loss, what is learnt is the pairs' own style: docs/calibrate.md
CALLED = {"last": "Last layer", "skip": "Clip skip (layer -2)", "pooled": "Pooled vector"}
LOADERS = ("ckpt_name", "clip_name", "lora_name")  # stock loaders' inputs, and most other packs'
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
            description="Fits a ZhCLIP encoder to the CLIP of a fine-tuned checkpoint of its own kind, from Chinese "
            "and English captions that come with the pack. No gradient: one linear map is corrected. Says how near the "
            "encoder came before and after, and leaves it alone where that does not help.",
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
        from .fitting import fit
        from .host.clip import encoder_of, load_in_place_of
        from .host.teacher import Teacher

        target = destination(save_as)
        # Not among the validations: a workflow that is queued again, with this node's result in the cache, may go on.
        if target is not None and target.exists():
            raise ValueError(
                f"{target} is there already and is never overwritten: load it with Load ZhCLIP Encoder in place of "
                "this node, or write another name into save_as."
            )
        encoder = encoder_of(zhclip)
        teacher = Teacher(clip, kind_of(encoder.meta.keys))
        old = dataclasses.replace(load(encoder.path), **encoder.changes)
        name = source(cls.hidden.prompt, cls.hidden.unique_id)
        start = time.monotonic()
        layers = fit(zhclip, old, teacher, pairs)
        seconds = time.monotonic() - start
        report = [f"{os.path.basename(encoder.path)} and the CLIP of {name}: {pairs} pairs, {seconds:.0f} s."]
        report += [verdict(CALLED[at], layer) for at, layer in layers.items()]
        changes = changes_of(old, layers, name, teacher)
        calibrated = zhclip
        if not changes:
            report.append("Calibration does not help here: the encoder goes out as it came in, and no file is written.")
        elif target is None:
            calibrated = load_in_place_of(zhclip, encoder.path, {**encoder.changes, **changes})
        else:
            save(dataclasses.replace(old, **changes), target)
            calibrated = load_in_place_of(zhclip, str(target))
            report.append(f"Saved as {target}.")
        text = "\n".join(report)
        return io.NodeOutput(calibrated, text, ui=ui.PreviewText(text))


def verdict(name: str, layer: Layer) -> str:
    """A layer's figures in words."""
    before, after = layer.before, layer.after
    but = "" if layer.helps(GAIN) else f", which is less than {GAIN:.0%} better: left as it was"
    return (
        f"{name}: cosine loss {before.loss():.3f} before, {after.loss():.3f} after "
        f"(a constant: {layer.constant.loss():.3f}); R@1 {before.recall():.3f} before, {after.recall():.3f} after"
        f"{but}."
    )


def changes_of(old: Artifact, layers: dict[str, Layer], name: str, teacher: Any) -> dict[str, Any]:
    """Fields of the artifact that a calibration replaces, its metadata among them; none where it does not help."""
    helped = {at: layer.new.tensors() for at, layer in layers.items() if layer.helps(GAIN)}
    if not helped:
        return {}
    calibration: dict[str, Any] = {at: layer.figures() for at, layer in layers.items()}
    calibration |= {"applied": sorted(helped), "from": dataclasses.asdict(old.meta.teacher), "to": name}
    meta = dataclasses.replace(old.meta, report={**old.meta.report, "calibration": calibration})
    changes: dict[str, Any] = {at: helped[at] for at in ("skip", "pooled") if at in helped}
    if "last" in helped:
        info = TeacherInfo(name, teacher.sha256(), old.meta.teacher.layer, old.meta.teacher.width)
        meta = dataclasses.replace(meta, teacher=info, position0="stored")
        changes |= helped["last"]
    return {**changes, "meta": meta}


def source(prompt: Any, node: Any) -> str:
    """Names of the files that the input `clip` of a node came from, as the queued workflow has them: a checkpoint, then
    LoRAs. Follows inputs named clip, as loaders and patches have them. "a CLIP" where nothing is found.
    """
    names: list[str] = []
    seen = set()
    while prompt and node in prompt and node not in seen:
        seen.add(node)
        inputs = prompt[node].get("inputs", {})
        names += [inputs[key] for key in LOADERS if isinstance(inputs.get(key), str)]
        link = inputs.get("clip")
        if not isinstance(link, list):
            break
        node = link[0]
    return " + ".join(reversed(names)) or "a CLIP"


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
