"""The node that paints the same prompts through several encoders: a graph of stock nodes, not a sampler of its own."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .files import CHOOSE, FOLDER, encoder_names, stamp
from .schema import schema

ENGLISH = "english"
FULL_WIDTH_BAR = "\uff5c"  # what a Chinese keyboard types
# A link and not its value: the graph that this node makes goes on from there, and only links can be cached.
LINK = {"rawLink": True}


class ZhCLIPCompareGrid(io.ComfyNode):
    """Expands into one stock sampler a cell, and a labelled picture of all."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        # Loaded long before any pack is; named here so that nodes without samplers import without it.
        from comfy.samplers import KSampler

        return schema(
            node_id="ZhCLIPCompareGrid",
            display_name="ZhCLIP Compare Grid",
            category="ZhCLIP",
            description="Paints every prompt through every encoder, from the same noise, into one labelled picture: a "
            "row an encoder, a column a prompt. Cells that did not change are not painted again.",
            search_aliases=["XY plot", "compare encoders", "zhclip"],
            enable_expand=True,
            inputs=[
                io.Model.Input("model", extra_dict=LINK, tooltip="The checkpoint's MODEL, for every cell."),
                io.Vae.Input("vae", extra_dict=LINK, tooltip="The checkpoint's VAE, for every cell."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    extra_dict=LINK,
                    tooltip="The checkpoint's own CLIP. Needed for the row `english` alone.",
                ),
                io.String.Input(
                    "encoders",
                    multiline=True,
                    default=ENGLISH,
                    tooltip="One file name of models/text_encoders a line, as Load ZhCLIP Encoder lists them. The word "
                    "`english` is the checkpoint's own CLIP, which then reads the English side of each prompt.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line: `Chinese | English`. The English side is for the row `english`.",
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
        """True, or the sentence that appears on the node before anything runs. `encoders` is None when it is a link.

        Prompts are checked in `execute`: ComfyUI would repeat one sentence under each input that is asked for here.
        """
        try:
            if encoders is not None:
                read_encoders(encoders)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, encoders: str | None, **_: Any) -> Any:
        """Changes when one of the files does; never equal to itself when the names come by a link, unknown as yet."""
        if encoders is None:
            return float("nan")  # costs nothing: the cells are cached on their own
        paths = [folder_paths.get_full_path(FOLDER, name) for _, name in lines(encoders)]
        return [stamp(path) for path in paths if path]

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

        Returns the graph that paints the grid. Raises ValueError, whose message is what the user reads.
        """
        rows, columns = read_encoders(encoders), lines(prompts)
        if not columns:
            raise ValueError("prompts is empty: write one prompt a line, `Chinese | English`.")
        if ENGLISH in rows and clip is None:
            raise ValueError(
                "encoders has the row `english`, and nothing is connected to clip: connect the checkpoint's own CLIP "
                "(Load Checkpoint's second output), or take that line out."
            )
        graph = GraphBuilder()
        latent = graph.node("EmptyLatentImage", "latent", width=width, height=height, batch_size=1)
        sampling |= {"model": model, "latent_image": latent.out(0), "denoise": 1.0}
        images = []
        for r, row in enumerate(rows):
            english = row == ENGLISH
            encoder = clip if english else graph.node("ZhCLIPLoader", f"clip.{r}", file=row, model=model).out(0)
            none = side(negative, english, "negative") if negative.strip() else ""
            sampling["negative"] = graph.node("CLIPTextEncode", f"negative.{r}", clip=encoder, text=none).out(0)
            for c, (number, line) in enumerate(columns):
                text = side(line, english, f"prompts, line {number}")
                wanted = graph.node("CLIPTextEncode", f"positive.{r}.{c}", clip=encoder, text=text)
                sampled = graph.node("KSampler", f"sample.{r}.{c}", positive=wanted.out(0), **sampling)
                images.append(graph.node("VAEDecode", f"image.{r}.{c}", samples=sampled.out(0), vae=vae).out(0))
        grid = graph.node(
            "ZhCLIPGrid",
            "grid",
            images=batched(graph, images),
            rows="\n".join("English: CLIP" if row == ENGLISH else row for row in rows),
            columns="\n".join(line for _, line in columns),
        )
        return io.NodeOutput(grid.out(0), expand=graph.finalize())


def lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, each with its number in the box, from 1."""
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_encoders(encoders: str) -> list[str]:
    """File names of text_encoders, or ENGLISH, in order. Raises ValueError that names the line."""
    known = encoder_names()
    rows = []
    for number, name in lines(encoders):
        if name.lower() == ENGLISH:
            rows.append(ENGLISH)
        elif name in known:
            rows.append(name)
        else:
            there = f"It has {', '.join(known)}." if known else f"It has none. {CHOOSE}"
            raise ValueError(
                f"encoders, line {number}: models/text_encoders has no ZhCLIP encoder {name}. {there} Write one of its "
                "names a line, or `english` for the checkpoint's own CLIP."
            )
    if not rows:
        raise ValueError(
            "encoders is empty: write one file name of models/text_encoders a line, or `english` for the checkpoint's "
            "own CLIP."
        )
    return rows


def side(line: str, english: bool, where: str) -> str:
    """The Chinese or the English side of `Chinese | English`. Raises ValueError that says which line lacks it."""
    chinese, _, other = line.replace(FULL_WIDTH_BAR, "|").partition("|")
    text = other.strip() if english else chinese.strip()
    if text:
        return text
    missing = "English side, which the row `english` reads" if english else "Chinese side"
    raise ValueError(f"{where}: there is no {missing}, in: {line} - write `Chinese | English`.")


def batched(graph: GraphBuilder, images: list[Any]) -> Any:
    """Links to images -> a link to their batch, in order.

    In pairs of pairs and not one after another: ComfyUI keeps every ImageBatch's result, and a chain of n would hold
    n * n / 2 pictures where this holds n * log2(n).
    """
    if len(images) == 1:
        return images[0]
    half = (len(images) + 1) // 2
    first, second = batched(graph, images[:half]), batched(graph, images[half:])
    return graph.node("ImageBatch", image1=first, image2=second).out(0)
