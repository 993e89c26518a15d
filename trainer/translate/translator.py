"""A translation model of transformers, Marian, NLLB or M2M100, between English and Chinese."""

from __future__ import annotations

from collections.abc import Iterable
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

FLAG = "translate.model"
CODES = {  # of the models, NLLB's first: its vocabulary has the others as words
    "zh": ("zho_Hans", "cmn_Hans", "cmn", "zho", "zh", "zh_cn", "chi"),
    "en": ("eng_Latn", "eng", "en"),
}


@dataclass(frozen=True)
class Translation:
    """A translated text. `fault`: "caption too long" for none, "cut at max_tokens" for its beginning."""

    text: str
    fault: str = ""


class Translator:
    """A translation model with its tokenizer. `prefix` goes before each caption."""

    def __init__(
        self,
        folder: Path,
        settings: TranslateSettings,
        device: torch.device | str = "cpu",
        flag: str = FLAG,
        languages: tuple[str, str] = ("en", "zh"),
    ):
        """Load the model in a folder. Raises ModelError for a folder without such a model, an incomplete one, or one of
        other languages."""
        where = f"--{flag} {folder}"
        self.settings = settings
        self.tokenizer: Any = read_tokenizer(folder, flag)
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
        self.prefix, self.options = set_languages(self.tokenizer, where, *languages)

    def translate(self, captions: list[str]) -> list[Translation]:
        """Translations in the order of the captions, computed in batches of similar length, the longest first."""
        ids = [self.tokenizer(self.prefix + text, verbose=False).input_ids for text in captions]
        # A caption cut short would be another caption.
        translations = [Translation("", "caption too long")] * len(captions)
        order = [i for i in range(len(ids)) if len(ids[i]) <= self.settings.max_tokens]
        order.sort(key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.settings.batch):
            rows = order[start : start + self.settings.batch]
            for i, translation in zip(rows, self._generate([ids[i] for i in rows])):
                translations[i] = translation
        return translations

    @torch.inference_mode()
    def _generate(self, ids: list[list[int]]) -> list[Translation]:
        batch = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(self.model.device)
        options = {"num_beams": self.settings.beams, "max_new_tokens": self.settings.max_tokens} | self.options
        try:
            generated = self.model.generate(**batch, do_sample=False, **options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError("out of GPU memory: lower --translate.batch or --translate.beams") from error
        return [self._decode(row[1:]) for row in generated.tolist()]  # without the decoder's start token

    def _decode(self, row: list[int]) -> Translation:
        end = self.tokenizer.eos_token_id
        length = row.index(end) if end in row else len(row)
        text = self.tokenizer.decode(row[:length], skip_special_tokens=True)
        # Many configs force the end token into the last place, so an output that fills all places was cut.
        return Translation(
            " ".join(text.split()), "cut at max_tokens" if length + 1 >= self.settings.max_tokens else ""
        )


def set_languages(tokenizer: Any, where: str, source: str, target: str) -> tuple[str, dict[str, int]]:
    """The text before each caption, and options of `generate`: Marian's models of several target languages read
    >>CODE<< first, NLLB and M2M100 write their target's code first.

    Raises ModelError where the model does not translate between these languages.
    """

    def known(names: Iterable[str]) -> list[str]:
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in names}
        return [name for name, number in ids.items() if tokenizer.convert_ids_to_tokens(number) == name]

    if hasattr(tokenizer, "src_lang"):
        first, forced = (known([*map("__{}__".format, CODES[lang]), *CODES[lang]]) for lang in (source, target))
        if first and forced:
            tokenizer.src_lang = first[0].strip("_")
            return "", {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(forced[0])}
    marks = known(map(">>{}<<".format, CODES[target]))
    own = [getattr(tokenizer, name, "?") for name in ("source_lang", "target_lang")]
    if own[0] not in (None, *CODES[source]) or not (marks or own[1] in (None, *CODES[target])):
        raise ModelError(f"{where}: it translates {own[0]} to {own[1]}; give one from {source} to {target}")
    return f"{marks[0]} " if marks else "", {}
