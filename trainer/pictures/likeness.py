"""Figures of finished pictures: how far two are apart, and how well a CLIP finds them to fit their prompt."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from ..base.errors import one_line
from ..models.load import ModelError, resolve

FLAG = "clip"
FILES = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer*", "vocab.json", "merges.txt"]
FILES += ["special_tokens_map.json"]


def pixel_distance(one: Path, other: Path) -> float:
    """Root mean square difference of two pictures' values, 0 to 1."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255 for path in (one, other))
    return float(np.sqrt(np.mean((a - b) ** 2)))


class Scorer:
    """A whole CLIP, whose image and text vectors are compared by cosine."""

    def __init__(self, model: str) -> None:
        folder = resolve(model, FLAG, FILES)
        transformers.logging.set_verbosity_error()  # the same as below, over a page
        try:
            clip, said = CLIPModel.from_pretrained(folder, output_loading_info=True)
            self.processor = CLIPImageProcessor.from_pretrained(folder)
            self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)
        except Exception as error:
            raise ModelError(
                f"--{FLAG} {folder}: not a whole CLIPModel with its processor ({one_line(error)})"
            ) from error
        if said["missing_keys"]:
            raise ModelError(f"--{FLAG} {folder}: tensors are missing, the first is {sorted(said['missing_keys'])[0]}")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.clip = clip.train(False).to(self.device)
        # Each picture is read once, though it is a reference of many.
        self.picture, self.text = functools.cache(self._picture), functools.cache(self._text)

    @torch.inference_mode()
    def _picture(self, path: Path) -> torch.Tensor:
        """A picture's unit vector (D,)."""
        pixels = self.processor(Image.open(path).convert("RGB"), return_tensors="pt").pixel_values
        vision = self.clip.vision_model(pixels.to(self.device))
        return _unit(self.clip.visual_projection(vision.pooler_output))

    @torch.inference_mode()
    def _text(self, text: str) -> torch.Tensor:
        """A text's unit vector (D,); what is beyond the window is cut."""
        batch: Any = self.tokenizer([text], truncation=True, max_length=77, return_tensors="pt").to(self.device)
        return _unit(self.clip.text_projection(self.clip.text_model(**batch).pooler_output))


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)[0].cpu()
