"""A sequence-to-sequence translation model of transformers: Marian, NLLB, M2M100 or mBART-50."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from ..base.device import is_out_of_memory
from ..base.errors import one_line
from ..base.stage_settings import TranslateSettings
from ..models.load import ModelError

FLAGS = {"zh": "translate.model", "en": "translate.back_model"}  # by the language that is translated into
FILES = ["*.json", "*.spm", "*.model", "model.safetensors", "model-*.safetensors"]
OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]  # read where there are none in safetensors
CODES = {  # (language code, its token) of NLLB, mBART-50 and M2M100
    "en": (("eng_Latn", "eng_Latn"), ("en_XX", "en_XX"), ("en", "__en__")),
    "zh": (("zho_Hans", "zho_Hans"), ("zh_CN", "zh_CN"), ("zh", "__zh__")),
}
MARIAN_CODES = {"en": ("eng", "en"), "zh": ("cmn_Hans", "zho_Hans", "cmn", "zho", "zh", "zh_cn", "chi")}


@dataclass(frozen=True)
class Output:
    """A translation, or the `fault` that left none: "caption too long" or "cut at max_tokens"."""

    text: str
    fault: str = ""


@dataclass
class Translator:
    """A model for one direction: `prefix` goes before each caption, `first` is the forced first token, if any."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    settings: TranslateSettings
    prefix: str = ""
    first: int | None = None

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


def load_translator(
    folder: Path,
    target: str,
    settings: TranslateSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Translator:
    """Load a model from its folder that translates into `target`, zh (from English) or en (from Chinese).

    Raises ModelError for a folder without such a model, an incomplete one, or one of other languages.
    """
    where = f"--{FLAGS[target]} {folder}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(f"{where}: no Marian, NLLB or M2M100 model can be read there ({one_line(error)})") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; download it again")
    positions = getattr(model.config, "max_position_embeddings", settings.max_tokens)
    if settings.max_tokens > positions:
        raise ModelError(f"{where}: --translate.max_tokens {settings.max_tokens} is over its {positions} positions")
    model.generation_config.max_length = None  # max_new_tokens decides
    code = settings.target_code if target == "zh" else None
    prefix, first = select_languages(tokenizer, where, target, code)
    return Translator(model.requires_grad_(False).train(False).to(device), tokenizer, settings, prefix, first)


def select_languages(tokenizer: Any, where: str, target: str, code: str | None) -> tuple[str, int | None]:
    """Set the tokenizer's languages; returns the text before each caption and the forced first token.

    `code` overrides the model's code of the target language. Raises ModelError where it has no such language.
    """
    source = "en" if target == "zh" else "zh"
    if hasattr(tokenizer, "source_lang"):  # Marian
        return _marian_prefix(tokenizer, where, source, target, code), None

    def known(codes: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
        return next((pair for pair in codes if tokenizer.convert_tokens_to_ids(pair[1]) not in missing), None)

    missing = (None, tokenizer.unk_token_id)
    reads = known(CODES[source])
    writes = known(((code, f"__{code}__"), (code, code)) if code else CODES[target])
    if not hasattr(tokenizer, "src_lang") or not reads or not writes:
        raise ModelError(f"{where}: its vocabulary has no tokens for {source} and {code or target}")
    tokenizer.src_lang = reads[0]
    return "", tokenizer.convert_tokens_to_ids(writes[1])


def _marian_prefix(tokenizer: Any, where: str, source: str, target: str, code: str | None) -> str:
    """`>>code<< ` for a Marian model of several target languages, else an empty string."""
    tokens = sorted(token for token in tokenizer.get_vocab() if token.startswith(">>") and token.endswith("<<"))
    wanted = [f">>{name}<<" for name in ((code,) if code else MARIAN_CODES[target])]
    token = next((token for token in wanted if token in tokens), "")
    reads = getattr(tokenizer, "source_lang", None) in (None, *MARIAN_CODES[source])
    writes = not code and not tokens and tokenizer.target_lang in (None, *MARIAN_CODES[target])
    if not reads or not (token or writes):
        languages = ", ".join(tokens) or tokenizer.target_lang
        raise ModelError(f"{where}: it translates {tokenizer.source_lang} to {languages}, not {source} to {wanted[0]}")
    return f"{token} " if token else ""
