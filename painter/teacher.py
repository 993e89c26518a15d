"""What the painter is conditioned on: the last hidden states of the English encoder, at all 24 positions."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from painter.unet import WINDOW

CHUNK = 256


@torch.no_grad()
def english_states(folder: Path, captions: list[str]) -> Tensor:
    """Encode captions with a BERT in Hugging Face layout, under its own mask, padded to the window.

    Returns (len(captions), 24, width), fp16. ValueError names a caption that is longer than the window.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"No encoder at {folder}: config.json is missing. Make it: python -m painter.real_pair DIR"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    states = []
    for start in range(0, len(captions), CHUNK):
        batch = tokenizer(captions[start : start + CHUNK], padding="max_length", max_length=WINDOW, return_tensors="pt")
        if batch["input_ids"].shape[1] > WINDOW:
            longest = max(captions[start : start + CHUNK], key=lambda text: len(tokenizer(text)["input_ids"]))
            raise ValueError(f"Caption over {WINDOW} tokens: {longest!r}. Shorten it.")
        states.append(model(**batch).last_hidden_state.half())
    return torch.cat(states)
