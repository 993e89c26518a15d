"""Small translation models in their published layouts: a sentencepiece tokenizer of the tests' captions, and weights
that are random or have learnt some captions by heart."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
)

from tests.small import captions

LEARNT = 16  # captions that a trained model knows by heart; all of them would take a minute


def pieces(texts: tuple[str, ...], path: Path, model_type: str = "unigram") -> list[str]:
    """Train a sentencepiece model into `path`. Returns its pieces without the control symbols."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=500,
            model_type=model_type,
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


def m2m100(folder: Path, nllb: bool = False) -> Path:
    """An M2M100 model with random weights, with its own tokenizer or NLLB's."""
    texts = tuple(text for pair in captions() for text in pair)
    names = pieces(texts, folder / "sentencepiece.bpe.model", "bpe")
    tokenizer: M2M100Tokenizer | NllbTokenizer
    if nllb:
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "NllbTokenizer"}', encoding="utf-8")
        bpe = json.loads(NllbTokenizer.from_pretrained(folder).backend_tokenizer.to_str())["model"]
        merges = [tuple(pair) for pair in bpe["merges"]]
        codes = ["eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant"]
        tokenizer = NllbTokenizer(vocab=bpe["vocab"], merges=merges, extra_special_tokens=codes)
    else:
        vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *names, "en", "zh"]  # the codes are words, too
        (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(vocabulary)}), encoding="utf-8")
        tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = M2M100Config(
        vocab_size=1000,
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder
