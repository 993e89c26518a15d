"""Small Marian models in their published layout: a sentencepiece tokenizer of the tests' captions, and weights that are
random or have learnt some captions by heart."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    AutoTokenizer,
    MarianConfig,
    MarianMTModel,
)

from tests.small import captions

LEARNT = 16  # captions that a trained model knows by heart; all of them would take a minute


def pieces(texts: tuple[str, ...], path: Path) -> list[str]:
    """Train a sentencepiece model into `path`. Returns its pieces without the control symbols."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=500,
            model_type="unigram",
            character_coverage=1.0,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]


def marian(
    folder: Path,
    languages: tuple[str, str] = ("eng", "zho"),
    codes: tuple[str, ...] = (),
    steps: int = 0,
) -> Path:
    """A MarianMTModel in the layout of opus-mt, after `steps` of training on LEARNT captions in its direction.

    `codes` are tokens of several target languages; the first then stands before what the model is trained on.
    """
    torch.manual_seed(1)
    pairs = [(en, zh) if languages[0] == "eng" else (zh, en) for zh, en in captions()]
    sides = [pieces(texts, folder / name) for texts, name in zip(zip(*pairs), ("source.spm", "target.spm"))]
    names = dict.fromkeys(["</s>", "<unk>", *sides[0], *sides[1], *codes, "<pad>"])
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": languages[0], "target_lang": languages[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    pad = len(names) - 1
    config = MarianConfig(
        vocab_size=len(names),
        d_model=64,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=128,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        num_beams=4,
        max_length=128,
        bad_words_ids=[[pad]],
        scale_embedding=True,
        activation_function="swish",
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        dropout=0.0,
    )
    model = MarianMTModel(config)
    if steps:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prefix = f"{codes[0]} " if codes else ""
        sources, targets = zip(*pairs[:LEARNT])
        batch = tokenizer([prefix + text for text in sources], text_target=list(targets), padding=True)
        tensors = {name: torch.tensor(value) for name, value in batch.items()}
        tensors["labels"] = tensors["labels"].masked_fill(tensors["labels"] == pad, -100)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            model(**tensors).loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    return folder
