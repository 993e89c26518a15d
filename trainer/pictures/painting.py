"""The files of a comparison: which of its pictures and agreements are missing, and how they are made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from ..base.files import read_tensors, replacing, write_tensors, write_text
from ..models.load import ModelError
from .agreement import Answer, agreement, reference_answers
from .cells import ENGLISH, Cell
from .conditioning import Conditionings
from .pipeline import paint

CURE = "delete it and start the comparison again"


@dataclass(frozen=True)
class Gallery:
    """A comparison's folder and all its cells."""

    folder: Path
    cells: list[Cell]

    @cached_property
    def _references(self) -> dict[tuple[int, int], Cell]:
        return {(cell.column, cell.seed): cell for cell in self.cells if cell.reader.kind == "reference"}

    def reference(self, cell: Cell) -> Cell:
        """The English cell of the same prompt and seed."""
        return self._references[cell.column, cell.seed]

    def picture(self, cell: Cell) -> Path:
        """Where a cell's picture lies."""
        return self.folder / "pictures" / f"{cell.name}.png"

    def queries(self, cell: Cell) -> Path:
        """Where it lies what the UNet was asked for a cell's picture."""
        return self.folder / "queries" / f"{cell.name}.safetensors"

    def agreement(self, cell: Cell) -> Path:
        """Where a cell's agreement with its reference lies."""
        return self.folder / "agreement" / f"{cell.name}-{self.reference(cell).name.rpartition('-')[2]}.json"

    def painted(self, cell: Cell) -> bool:
        """Whether its picture is there, and the queries if it may be the reference of another column."""
        return self.picture(cell).is_file() and (cell.reader.encoder != ENGLISH or self.queries(cell).is_file())

    def missing(self) -> list[Cell]:
        """The cells of which something is not there."""
        return [cell for cell in self.cells if not self.painted(cell) or not self.agreement(cell).is_file()]

    def needed(self, work: list[Cell]) -> list[Cell]:
        """The cells whose conditionings the work takes: its own, and those of its references."""
        return list({cell.name: cell for one in work for cell in (one, self.reference(one))}.values())

    def paint(self, work: list[Cell], conditionings: Conditionings, pipeline: StableDiffusionPipeline) -> None:
        """Paint the cells of `work`, each picture with its agreement. Raises ModelError where widths do not fit."""
        _check_widths(work, conditionings, pipeline.unet.config.cross_attention_dim)
        progress = tqdm(work, desc="paint", unit="picture")
        answered, answers = None, list[Answer]()
        for cell in progress:
            progress.set_postfix_str(f"{cell.reader.label}, seed {cell.seed}")
            encoder, reference = cell.reader.encoder, self.reference(cell)
            conditioning = conditionings[encoder, cell.text]
            if not self.painted(cell):
                png, asked = paint(pipeline, conditioning, conditionings[encoder, ""], cell.made_with)
                if encoder == ENGLISH:
                    write_tensors(self.queries(cell), asked)
                with replacing(self.picture(cell)) as file:
                    file.write(png)
            if self.agreement(cell).is_file():
                continue
            asked = read_tensors(self.queries(reference), CURE)
            if answered != reference.name:
                answers.clear()  # the old ones go before the new ones come
                answers = reference_answers(pipeline.unet, asked, conditionings[ENGLISH, reference.text])
                answered = reference.name
            write_text(self.agreement(cell), json.dumps(agreement(pipeline.unet, asked, answers, conditioning)))


def _check_widths(work: list[Cell], conditionings: Conditionings, width: int) -> None:
    for cell in work:
        own = conditionings[cell.reader.encoder, cell.text].shape[1]
        if own != width:
            raise ModelError(
                f"{cell.reader.encoder}: its vectors are {own} wide, and the checkpoint's UNet reads {width}"
            )
