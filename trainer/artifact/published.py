"""Published Chinese encoders: the layouts they come in, and how their own pipelines run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertModel,
    BertTokenizer,
    ChineseCLIPModel,
    ChineseCLIPTextModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from zhclip.bert import Bert

from ..base.errors import one_line
from ..models.bert import ANCHOR, bert_of, load_bert
from ..models.load import CHECKPOINTS, ModelError, read_config, read_tensors, resolve, under_anchor

FLAG = "source"
# As SD1.5's CLIP, and so as every encoder that is aligned to it; Chinese-CLIP itself learnt windows of 52.
CHINESE_CLIP_WINDOW = 77
WINDOW_LIMIT = 512  # of a tokenizer that states none, for which transformers has a very large number
CLASSES = {"bert": BertModel, "chinese_clip": ChineseCLIPModel, "chinese_clip_text_model": ChineseCLIPTextModel}
CLIP_ANCHOR = "embeddings.token_embedding.weight"
XLM_R = (
    "it is an XLM-RoBERTa, AltDiffusion's kind of encoder, and no BERT: all its padding shares one position and its "
    "text is counted from 2, which the node's BERT cannot do"
)


@dataclass(frozen=True)
class Published:
    """A published encoder, by transformers' own classes, with what its pipeline does around it."""

    bert: Bert  # as this repository loads it, strictly
    source: Bert | BertModel | ChineseCLIPTextModel  # as transformers loads it
    tokenizer: PreTrainedTokenizerBase
    window: int  # positions that its pipeline pads a prompt to
    mask_padding: bool
    where: str  # flag and path, for messages

    @torch.inference_mode()
    def encode(self, texts: list[str], window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (B, window) and last hidden states (B, window, S), as the encoder's own pipeline computes them."""
        batch = self.tokenizer(texts, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
        mask = batch.attention_mask if self.mask_padding else torch.ones_like(batch.attention_mask)
        if isinstance(self.source, Bert):
            return batch.input_ids, self.source(batch.input_ids, mask.bool())
        return batch.input_ids, self.source(input_ids=batch.input_ids, attention_mask=mask).last_hidden_state


def read(source: str, tokenizer: str | None) -> Published:
    """Read a folder, a hub id or one file. Raises ModelError when it is no BERT, not whole, or lacks a tokenizer.

    A diffusers folder, as Taiyi-Stable-Diffusion-1B-Chinese-v0.1 is, has text_encoder/ and tokenizer/. diffusers'
    StableDiffusionPipeline.encode_prompt pads to the tokenizer's model_max_length, and masks nothing unless the
    encoder's config.json has use_attention_mask. Taiyi's tokenizer_config.json says 512, its config.json nothing.
    """
    path = resolve(source, FLAG)
    if path.is_file():
        return _from_file(path, tokenizer)
    where, is_pipeline = f"--{FLAG} {path}", (path / "text_encoder").is_dir()
    folder = path / "text_encoder" if is_pipeline else path
    bert, source_model = _from_folder(folder)
    tokens = _tokenizer(tokenizer or str(path), bert, where)
    window = _pipeline_window(tokens, bert) if is_pipeline else _capped(bert)
    masked = not is_pipeline or bool(read_config(folder, FLAG).get("use_attention_mask"))
    return Published(bert, source_model, tokens, window, masked, where)


def _from_file(path: Path, tokenizer: str | None) -> Published:
    """One file of weights: a Stable Diffusion checkpoint with Taiyi's BERT under cond_stage_model, or a CLIP with a
    BERT under bert, as cn_clip's .pt has it (OFA-Sys/Chinese-CLIP, clip/model.py).

    Such a file has no configuration: its BERT's heads are 64 wide, as in every published one of these.
    """
    where = f"--{FLAG} {path}"
    if path.suffix not in CHECKPOINTS:
        raise ModelError(f"{where}: no file of weights ({', '.join(CHECKPOINTS)})")
    if not tokenizer:
        raise ModelError(f"{where}: a single file has no tokenizer; give its vocab.txt, or a folder, as --tokenizer")
    everything = read_tensors(path, FLAG)
    _refuse_foreign(everything, where)
    tensors = under_anchor(everything, ANCHOR)
    bert = bert_of({"num_attention_heads": max(1, tensors[ANCHOR].shape[1] // 64)}, tensors, where)
    bert.train(False)
    tokens = _tokenizer(tokenizer, bert, where)
    # IDEA-CCNL/Fengshenbang-LM runs the checkpoint in a web UI by TaiyiCLIPEmbedder: max_length 512, no mask.
    is_checkpoint = any(name.startswith("cond_stage_model.") for name in everything)
    window = _pipeline_window(tokens, bert) if is_checkpoint else _capped(bert)
    return Published(bert, bert, tokens, window, not is_checkpoint, where)


def _refuse_foreign(tensors: dict[str, torch.Tensor], where: str) -> None:
    anchor = min((name for name in tensors if name.endswith(ANCHOR)), key=len, default=None)
    if anchor is None:
        clip = any(name.endswith(CLIP_ANCHOR) for name in tensors)
        what = "CLIP's English text encoder and no BERT" if clip else f"no BERT ({ANCHOR})"
        raise ModelError(f"{where}: it holds {what}; give a checkpoint or a CLIP whose text encoder is a Chinese BERT")
    if "roberta." in anchor:  # Chinese RoBERTa is a BERT by its layers and its names; XLM-R's names say roberta
        raise ModelError(f"{where}: {XLM_R}")


def _from_folder(folder: Path) -> tuple[Bert, BertModel | ChineseCLIPTextModel]:
    """The BERT of a folder in Hugging Face layout: ours, and transformers' own."""
    kind = read_config(folder, FLAG).get("model_type")
    if kind in ("xlm-roberta", "roberta", "altclip", "altclip_text_model"):
        raise ModelError(f"--{FLAG} {folder}: {XLM_R}")
    bert = load_bert(folder, FLAG)
    logging.set_verbosity_error()  # load_bert has judged already what is missing or left over
    whole = CLASSES[str(kind)].from_pretrained(folder)
    return bert.train(False), getattr(whole, "text_model", whole).float().train(False)


def _tokenizer(given: str, bert: Bert, where: str) -> PreTrainedTokenizerBase:
    path = resolve(given, "tokenizer")
    path = path / "tokenizer" if (path / "tokenizer").is_dir() else path
    # cn_clip keeps a vocab.txt without any word on how to read it: by the rules of Google's Chinese BERT.
    bare = path if path.is_file() else path / "vocab.txt"
    try:
        if path.is_file() or (bare.is_file() and not (path / "tokenizer_config.json").is_file()):
            tokenizer = BertTokenizer(vocab=str(bare), do_lower_case=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{where}: the tokenizer {path} cannot be read ({one_line(error)})") from error
    rows = bert.dimensions.vocabulary
    if tokenizer.vocab_size > rows:
        raise ModelError(f"{where}: the tokenizer {path} has {tokenizer.vocab_size} tokens and the encoder {rows} rows")
    for name in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token, tokenizer.unk_token):
        # What a vocabulary lacks transformers appends, at an id that the encoder never learnt.
        if name is None or tokenizer.convert_tokens_to_ids(name) >= tokenizer.vocab_size:
            raise ModelError(f"{where}: the tokenizer {path} is no BERT's, its vocabulary lacks {name}")
    return tokenizer


def _pipeline_window(tokenizer: PreTrainedTokenizerBase, bert: Bert) -> int:
    return min(tokenizer.model_max_length, WINDOW_LIMIT, bert.dimensions.positions)


def _capped(bert: Bert) -> int:
    return min(CHINESE_CLIP_WINDOW, bert.dimensions.positions)
