"""A sequence-to-sequence translation model of transformers: Marian, NLLB, M2M100 or mBART-50."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from zhclip.device import best_precision

from ..base.device import is_out_of_memory
from ..base.errors import one_line
from ..base.stage_settings import TranslateSettings
from ..models.load import ModelError, read_tokenizer

FLAGS = {"zh": "translate.model", "en": "translate.back_model"}  # by the language that is translated into
CODES = {  # a language's code and its token: NLLB, mBART-50, M2M100
    "en": {"eng_Latn": "eng_Latn", "en_XX": "en_XX", "en": "__en__"},
    "zh": {"zho_Hans": "zho_Hans", "zh_CN": "zh_CN", "zh": "__zh__"},
}
MARIAN_CODES = {"en": ("eng", "en"), "zh": ("cmn_Hans", "zho_Hans", "cmn", "zho", "zh", "zh_cn", "chi")}


@dataclass(frozen=True)
class Output:
    """A translation, or the `fault` that left none: "caption too long" or "cut at max_tokens"."""

    text: str
    fault: str = ""


class Translator:
    """A model for one direction. `prefix` goes before each caption, `first` is the forced first token, if any."""

    def __init__(self, folder: Path, target: str, settings: TranslateSettings, device: torch.device | str = "cpu"):
        """Load the model in a folder that translates into `target`, zh (from English) or en (from Chinese).

        Raises ModelError for a folder without such a model, an incomplete one, or one of other languages.
        """
        where = f"--{FLAGS[target]} {folder}"
        self.settings = settings
        self.tokenizer: Any = read_tokenizer(folder, FLAGS[target])
        try:
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                folder, output_loading_info=True, trust_remote_code=False
            )
        except Exception as error:
            raise ModelError(f"{where}: no translation model can be read there ({one_line(error)})") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}")
        positions = getattr(model.config, "max_position_embeddings", settings.max_tokens)
        if settings.max_tokens > positions:
            raise ModelError(f"{where}: --translate.max_tokens {settings.max_tokens} is over its {positions} positions")
        model.generation_config.max_length = None  # max_new_tokens decides
        bf16 = torch.device(device).type == "cuda" and best_precision(gpu=True) == "bf16"
        self.model: Any = model.train(False).to(device, torch.bfloat16 if bf16 else torch.float32)
        self.prefix, self.first = select_languages(self.tokenizer, target, where)

    def translate(self, texts: list[str]) -> list[Output]:
        """Translations in the order of the texts, computed in batches of similar length, the longest first."""
        ids = [self.tokenizer(self.prefix + text, verbose=False).input_ids for text in texts]
        outputs = [Output("", "caption too long")] * len(texts)  # a caption cut short would be another caption
        order = [i for i in range(len(ids)) if len(ids[i]) <= self.settings.max_tokens]
        order.sort(key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.settings.batch):
            rows = order[start : start + self.settings.batch]
            for i, output in zip(rows, self._generate([ids[i] for i in rows])):
                outputs[i] = output
        return outputs

    @torch.inference_mode()
    def _generate(self, ids: list[list[int]]) -> list[Output]:
        batch = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(self.model.device)
        settings: dict[str, Any] = {"num_beams": self.settings.beams, "max_new_tokens": self.settings.max_tokens}
        if self.first is not None:
            settings["forced_bos_token_id"] = self.first
        try:
            generated = self.model.generate(**batch, do_sample=False, **settings)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError("out of GPU memory: lower --translate.batch or --translate.beams") from error
        return [self._decode(row[1:]) for row in generated.tolist()]  # without the decoder's start token

    def _decode(self, row: list[int]) -> Output:
        end = self.tokenizer.eos_token_id
        length = row.index(end) if end in row else len(row)
        text = self.tokenizer.decode([i for i in row[:length] if i != self.first], skip_special_tokens=True)
        # Many configs force the end token into the last place, so an output that fills all places was cut.
        return Output(" ".join(text.split()), "cut at max_tokens" if length + 1 >= self.settings.max_tokens else "")


def select_languages(tokenizer: Any, target: str, where: str) -> tuple[str, int | None]:
    """Set the tokenizer's source language; returns the text before each caption and the forced first token.

    Raises ModelError where the model does not translate into `target`.
    """
    source = "en" if target == "zh" else "zh"
    if hasattr(tokenizer, "source_lang"):  # Marian, where the text begins with >>CODE<< if there are several targets
        codes = [code for code in MARIAN_CODES[target] if f">>{code}<<" in tokenizer.get_vocab()]
        own = tokenizer.source_lang, tokenizer.target_lang
        if own[0] not in (None, *MARIAN_CODES[source]) or not (codes or own[1] in (None, *MARIAN_CODES[target])):
            raise ModelError(f"{where}: it translates {own[0]} to {own[1]}, not {source} to {target}")
        return f">>{codes[0]}<< " if codes else "", None
    ids = {token: tokenizer.convert_tokens_to_ids(token) for tokens in CODES.values() for token in tokens.values()}
    known = {token for token, number in ids.items() if number not in (None, tokenizer.unk_token_id)}
    read_codes = [code for code, token in CODES[source].items() if token in known]
    first_tokens = [token for token in CODES[target].values() if token in known]
    if not hasattr(tokenizer, "src_lang") or not read_codes or not first_tokens:
        raise ModelError(f"{where}: its vocabulary has no tokens for the languages {source} and {target}")
    tokenizer.src_lang = read_codes[0]
    return "", ids[first_tokens[0]]
