"""The node that renders the same prompts with several encoders, as a graph of stock nodes; and the labelled grid."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .common import FOLDER, encoder_names, file_stamp, numbered_lines, schema
from .messages import message

ENGLISH = "english"
FULL_WIDTH_BAR = "\uff5c"  # as Chinese input methods type it
# The input is the link and not its value: the expanded graph continues from it, and ComfyUI caches links only.
RAW_LINK = {"rawLink": True}


class ZhCLIPCompareGrid(io.ComfyNode):
    """Expands into a stock sampler for each cell, and a labelled grid of their pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        # ComfyUI has loaded it by now; imported here, this module can be imported without it.
        from comfy.samplers import KSampler

        return schema(
            node_id="ZhCLIPCompareGrid",
            display_name="ZhCLIP Compare Grid",
            category="ZhCLIP",
            description="Paints every prompt through every encoder, from the same noise, into one labelled picture: "
            "one row per encoder, one column per prompt. Cells that did not change are not painted again.",
            search_aliases=["XY plot", "compare encoders", "zhclip"],
            enable_expand=True,
            inputs=[
                io.Model.Input("model", extra_dict=RAW_LINK, tooltip="The checkpoint's MODEL, for every cell."),
                io.Vae.Input("vae", extra_dict=RAW_LINK, tooltip="The checkpoint's VAE, for every cell."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    extra_dict=RAW_LINK,
                    tooltip="The checkpoint's own CLIP. Needed for the row `english` alone.",
                ),
                io.String.Input(
                    "encoders",
                    multiline=True,
                    default=ENGLISH,
                    tooltip="File names of models/text_encoders, one per line, as Load ZhCLIP Encoder lists them. The "
                    "word `english` is the checkpoint's own CLIP, which then reads the English side of each prompt.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt per line: `Chinese | English`. The English side is for the row `english`.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    tooltip="The negative prompt of every cell, also `Chinese | English`; it may be empty.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Makes the noise, which is the same in every cell.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As in KSampler."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="As in KSampler."),
                io.Combo.Input("sampler_name", options=list(KSampler.SAMPLERS), tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=list(KSampler.SCHEDULERS), tooltip="As in KSampler."),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Of one cell, in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Of one cell, in pixels."),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="The labelled picture.")],
        )

    @classmethod
    def validate_inputs(cls, encoders: str | None) -> bool | str:
        """True, or the error that ComfyUI shows on the node before the queue runs; `encoders` is None for a link.

        Prompts are checked in `execute`: ComfyUI repeats the error under each input that is a parameter here.
        """
        try:
            if encoders is not None:
                parse_encoders(encoders)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, encoders: str | None, **_: Any) -> Any:
        """Changes with the files; `encoders` is None for a link, whose text is not known yet."""
        paths = [folder_paths.get_full_path(FOLDER, name) for _, name in numbered_lines(encoders or "")]
        return [file_stamp(path) for path in paths if path]

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        encoders: str,
        prompts: str,
        negative: str,
        width: int,
        height: int,
        clip: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        """model, vae, clip: links, [node id, output index]; `sampling` are KSampler's own inputs.

        Returns the graph that paints the grid. Raises ValueError, whose message the user reads.
        """
        rows, columns = parse_encoders(encoders), numbered_lines(prompts)
        if not columns:
            raise ValueError(message("no_prompts"))
        if ENGLISH in rows and clip is None:
            raise ValueError(message("no_clip_for_english"))
        graph = GraphBuilder()
        latent = graph.node("EmptyLatentImage", "latent", width=width, height=height, batch_size=1)
        sampling |= {"model": model, "latent_image": latent.out(0), "denoise": 1.0}
        images = []
        for r, row in enumerate(rows):
            english = row == ENGLISH
            encoder = clip if english else graph.node("ZhCLIPLoader", f"clip.{r}", file=row, model=model).out(0)
            text = choose_side(negative, english, "negative") if negative.strip() else ""
            sampling["negative"] = graph.node("CLIPTextEncode", f"negative.{r}", clip=encoder, text=text).out(0)
            for c, (number, line) in enumerate(columns):
                text = choose_side(line, english, message("prompts_line", number=number))
                positive = graph.node("CLIPTextEncode", f"positive.{r}.{c}", clip=encoder, text=text)
                latents = graph.node("KSampler", f"sample.{r}.{c}", positive=positive.out(0), **sampling)
                images.append(graph.node("VAEDecode", f"image.{r}.{c}", samples=latents.out(0), vae=vae).out(0))
        grid = graph.node(
            "ZhCLIPGrid",
            "grid",
            images=batch_images(graph, images),
            rows="\n".join("English: CLIP" if row == ENGLISH else row for row in rows),
            columns="\n".join(line for _, line in columns),
        )
        return io.NodeOutput(grid.out(0), expand=graph.finalize())


class ZhCLIPGrid(io.ComfyNode):
    """Draws a batch of images as labelled rows and columns."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts of the node."""
        return schema(
            node_id="ZhCLIPGrid",
            display_name="ZhCLIP Labelled Grid",
            category="ZhCLIP",
            description="Lays a batch of images out as a table, with a label for each row and column. Labels may be "
            "Chinese.",
            search_aliases=["image grid", "contact sheet", "zhclip"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, row by row."),
                io.String.Input("rows", multiline=True, default="", tooltip="The rows' labels, one per line."),
                io.String.Input("columns", multiline=True, default="", tooltip="The columns' labels, one per line."),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="The labelled picture.")],
        )

    @classmethod
    def execute(cls, images: Any, rows: str, columns: str) -> io.NodeOutput:
        """images: (N, H, W, 3), 0 to 1, N = rows x columns. Raises ValueError, whose message the user reads."""
        from .drawing import labelled_grid, to_tensor

        row_labels, column_labels = ([line for _, line in numbered_lines(text)] for text in (rows, columns))
        count = len(row_labels) * len(column_labels)
        if len(images) != count:
            labels = {"rows": len(row_labels), "columns": len(column_labels), "count": count}
            raise ValueError(message("other_count", images=len(images), **labels))
        return io.NodeOutput(to_tensor(labelled_grid(images, row_labels, column_labels)))


def parse_encoders(encoders: str) -> list[str]:
    """File names of text_encoders, or ENGLISH, in order. Raises ValueError that names the line."""
    known = [ENGLISH, *encoder_names()]
    rows = []
    for number, name in numbered_lines(encoders):
        row = ENGLISH if name.lower() == ENGLISH else name
        if row not in known:
            raise ValueError(message("unknown_encoder", number=number, name=name, names=", ".join(known)))
        rows.append(row)
    if not rows:
        raise ValueError(message("no_encoders", names=", ".join(known)))
    return rows


def choose_side(line: str, english: bool, source: str) -> str:
    """The Chinese or the English side of `Chinese | English`. Raises ValueError that names the line if it is empty."""
    left, _, right = line.replace(FULL_WIDTH_BAR, "|").partition("|")
    text = right.strip() if english else left.strip()
    if text:
        return text
    raise ValueError(message("no_english_side" if english else "no_chinese_side", source=source, line=line))


def batch_images(graph: GraphBuilder, images: list[Any]) -> Any:
    """Links to images -> a link to their batch, in order.

    As a balanced tree: ComfyUI keeps the result of every ImageBatch, so a chain of n would hold n * n / 2 pictures, a
    tree n * log2(n).
    """
    if len(images) == 1:
        return images[0]
    half = (len(images) + 1) // 2
    first, second = batch_images(graph, images[:half]), batch_images(graph, images[half:])
    return graph.node("ImageBatch", image1=first, image2=second).out(0)
