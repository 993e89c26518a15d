"""The node that lays a batch of images out as a table with labels."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import lines, schema


class ZhCLIPGrid(io.ComfyNode):
    """Draws a batch as rows and columns."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node's face."""
        return schema(
            node_id="ZhCLIPGrid",
            display_name="ZhCLIP Labelled Grid",
            category="ZhCLIP",
            description="Lays a batch of images out as a table, with a label for each row and column. Labels may be "
            "Chinese.",
            search_aliases=["image grid", "contact sheet", "zhclip"],
            inputs=[
                io.Image.Input("images", tooltip="A batch, row by row."),
                io.String.Input("rows", multiline=True, default="", tooltip="The rows' labels, one a line."),
                io.String.Input("columns", multiline=True, default="", tooltip="The columns' labels, one a line."),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="The labelled picture.")],
        )

    @classmethod
    def execute(cls, images: Any, rows: str, columns: str) -> io.NodeOutput:
        """images: (N, H, W, 3), 0 to 1, N = rows x columns. Raises ValueError, whose message is what the user reads."""
        from .drawing import labelled_grid, to_tensor

        across, down = labels(columns, "columns"), labels(rows, "rows")
        if len(images) != len(across) * len(down):
            raise ValueError(
                f"images is a batch of {len(images)}, and {len(down)} rows by {len(across)} columns are "
                f"{len(down) * len(across)}: write one label a line for each row and column of the batch."
            )
        return io.NodeOutput(to_tensor(labelled_grid(images, down, across)))


def labels(text: str, of: str) -> list[str]:
    """One label for each line that is not blank. Raises ValueError when there is none."""
    named = lines(text)
    if not named:
        raise ValueError(f"{of} is empty: write one label a line.")
    return named
