"""A translation model of transformers: Marian, NLLB, M2M100 or another whose tokenizer names its languages.

What the model is, and what it wants to be told about languages, is read from its config and its tokenizer's vocabulary,
never from its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from ..base.errors import one_line
from ..base.files import file_sha256
from ..base.stage_settings import TranslateSettings
from ..models.weights import ModelError, read_config, resolve

# By target language: the flag that names the model, and the language that it reads.
FLAGS = {"zh": "translate.model", "en": "translate.back_model"}
SOURCES = {"zh": "en", "en": "zh"}
# A tokenizer's code of a language, and the token behind it: NLLB, M2M100, mBART-50.
CODES = (
    {"en": ("eng_Latn", "eng_Latn"), "zh": ("zho_Hans", "zho_Hans")},
    {"en": ("en", "__en__"), "zh": ("zh", "__zh__")},
    {"en": ("en_XX", "en_XX"), "zh": ("zh_CN", "zh_CN")},
)
# Of a Marian model with several target languages, in order of preference.
PREFIXES = {
    "en": (">>eng<<", ">>en<<"),
    "zh": (">>cmn_Hans<<", ">>zho_Hans<<", ">>cmn<<", ">>zho<<", ">>zh<<", ">>zh_cn<<"),
}
MARIAN = {"en": {"en", "eng"}, "zh": {"zh", "zho", "cmn", "cmn_Hans", "zho_Hans", "chi", "zh_cn"}}
PATTERNS = ["*.json", "*.spm", "*.model", "model.safetensors", "model-*.safetensors"]
WEIGHTS = ("*.safetensors", "*.bin", "*.spm", "*.model", "*.json")


@dataclass(frozen=True)
class Languages:
    """How a model is told its languages: text before the caption, and the token that its output starts with."""

    prefix: str = ""
    first: int | None = None


@dataclass(frozen=True)
class Output:
    """A translation. `fault` is "caption too long" or "cut at max_tokens", where the model had no room; else empty."""

    text: str
    fault: str = ""


@dataclass
class Translator:
    """A model with its tokenizer, ready for one direction."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    languages: Languages
    settings: TranslateSettings

    def translate(self, texts: list[str]) -> list[Output]:
        """Translations in the order of the texts, computed in batches of like length, the longest first.

        A text of more than max_tokens tokens is not translated: cut, it would be the translation of another caption.
        """
        ids = [self.tokenizer(self.languages.prefix + text, verbose=False).input_ids for text in texts]
        outputs = [Output("", "caption too long")] * len(texts)
        order = [i for i in range(len(ids)) if len(ids[i]) <= self.settings.max_tokens]
        order.sort(key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.settings.batch):
            some = order[start : start + self.settings.batch]
            for i, output in zip(some, self._generate([ids[i] for i in some])):
                outputs[i] = output
        return outputs

    @torch.inference_mode()
    def _generate(self, ids: list[list[int]]) -> list[Output]:
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        search: dict[str, Any] = {"num_beams": self.settings.beams, "max_new_tokens": self.settings.max_tokens}
        if self.settings.beams > 1:
            search["length_penalty"] = self.settings.length_penalty
        if self.languages.first is not None:
            search["forced_bos_token_id"] = self.languages.first
        try:
            made = self.model.generate(**padded.to(self.model.device), do_sample=False, **search)
        except torch.cuda.OutOfMemoryError as error:
            raise ModelError(
                f"out of GPU memory with {self.settings.batch} captions a batch: lower --translate.batch or "
                "--translate.beams"
            ) from error
        return [self._decode(row[1:]) for row in made.tolist()]  # without the decoder's start token

    def _decode(self, row: list[int]) -> Output:
        end = self.tokenizer.eos_token_id
        length = row.index(end) if end in row else len(row)
        text = self.tokenizer.decode([i for i in row[:length] if i != self.languages.first], skip_special_tokens=True)
        # Many a config forces the end token in the last place: an output that fills all places was cut.
        cut = length + 1 >= self.settings.max_tokens
        return Output(" ".join(text.split()), "cut at max_tokens" if cut else "")


def load_translator(
    folder: Path,
    target: str,
    settings: TranslateSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Translator:
    """Load a model that translates English into Chinese (`target` zh), or back (en).

    Raises ModelError when the folder holds none, it is incomplete, or of another direction.
    """
    where = f"--{FLAGS[target]} {folder}"
    kind = read_config(folder, FLAGS[target]).get("model_type")
    with _readable(where, "config or tokenizer"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not config.is_encoder_decoder:
        raise ModelError(f"{where}: model_type {kind!r} is no translation model; give a Marian, NLLB or M2M100")
    with _readable(where, "config or tokenizer"), warnings.catch_warnings():
        # Marian's tokenizer asks for it and never calls it.
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    positions = getattr(config, "max_position_embeddings", settings.max_tokens)
    if settings.max_tokens > positions:
        raise ModelError(
            f"{where}: it has {positions} positions and --translate.max_tokens asks for {settings.max_tokens}"
        )
    languages = languages_of(tokenizer, where, target, settings.target_code if target == "zh" else None)
    with _readable(where, "weights"):
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; download it again")
    model.generation_config.max_length = None  # max_tokens decides
    return Translator(model.requires_grad_(False).train(False).to(device), tokenizer, languages, settings)


@contextmanager
def _readable(where: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ModelError(f"{where}: its {what} cannot be read ({one_line(error)}); download it again") from error


def languages_of(tokenizer: PreTrainedTokenizerBase, where: str, target: str, code: str | None) -> Languages:
    """What the model must be told; `code` overrides its code of the target language.

    Raises ModelError when it does not know the two languages.
    """
    if hasattr(tokenizer, "source_lang"):
        return _marian_languages(tokenizer, where, target, code)
    if not hasattr(tokenizer, "src_lang"):
        raise ModelError(
            f"{where}: {type(tokenizer).__name__} names no languages; give a Marian, NLLB or M2M100 translation model"
        )
    known = (pair for pair in CODES if all(_known(tokenizer, token) is not None for _, token in pair.values()))
    codes = next(known, None)
    if codes is None:
        raise ModelError(f"{where}: its vocabulary has no tokens for English and Chinese such as eng_Latn, zho_Hans")
    tokenizer.src_lang = codes[SOURCES[target]][0]
    usual, token = codes[target]
    token = token.replace(usual, code) if code else token
    first = _known(tokenizer, token)
    if first is None:
        raise ModelError(f"{where}: its vocabulary has no {token} that --translate.target_code {code} asks for")
    return Languages(first=first)


def _marian_languages(tokenizer: PreTrainedTokenizerBase, where: str, target: str, code: str | None) -> Languages:
    choices = sorted(token for token in tokenizer.get_vocab() if token.startswith(">>") and token.endswith("<<"))
    wanted = (f">>{code}<<",) if code else PREFIXES[target]
    prefix = next((token for token in wanted if token in choices), "")
    if code and not prefix:
        raise ModelError(
            f"{where}: it has no target language {wanted[0]}; it has {', '.join(choices) or 'none to choose'}"
        )
    if choices and not prefix:
        raise ModelError(f"{where}: its target languages are {', '.join(choices)}: none for {target!r}")
    reads, writes = (getattr(tokenizer, side, None) for side in ("source_lang", "target_lang"))
    # A model of several targets is named after a family of languages.
    right = not writes or prefix or writes in MARIAN[target]
    if not right or (reads and reads not in MARIAN[SOURCES[target]]):
        raise ModelError(f"{where}: it translates from {reads} to {writes}, not from {SOURCES[target]} to {target}")
    return Languages(prefix=f"{prefix} " if prefix else "")


def _known(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    number = tokenizer.convert_tokens_to_ids(token)
    return None if number is None or number == tokenizer.unk_token_id else int(number)


def model_folder(model: str, target: str) -> Path:
    """The model's folder, local or from the hub."""
    folder = resolve(model, FLAGS[target], PATTERNS)
    if folder.is_file():
        raise ModelError(f"--{FLAGS[target]} {model}: a file; give the folder of a translation model, or a hub id")
    return folder


def model_sha256(folder: Path) -> str:
    """Digest of a model's files: other weights under the same name are another model."""
    return file_sha256(*sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}), named=True)
