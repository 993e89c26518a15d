"""A translation model of transformers: Marian, NLLB, M2M100 or another whose tokenizer names its languages.

What the model is, and what it wants to be told about languages, is read from its config and its tokenizer's vocabulary,
never from its name.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..encoders import ModelError, read_config, resolve

# Left of each: a tokenizer's code and, where that differs, the token behind it. NLLB, M2M100, mBART-50.
ENGLISH = (("eng_Latn", "eng_Latn"), ("en", "__en__"), ("en_XX", "en_XX"))
CHINESE = (("zho_Hans", "zho_Hans"), ("zh", "__zh__"), ("zh_CN", "zh_CN"))
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
class Direction:
    """From one language to the other ("en", "zh"). `code` overrides the model's code of the target language."""

    source: str
    target: str
    code: str | None = None


@dataclass(frozen=True)
class Search:
    """How a translation is looked for: beams (1: greedy), the length penalty of beams, and the most tokens a side."""

    beams: int
    length_penalty: float
    max_tokens: int


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
    search: Search
    batch: int

    def translate(self, texts: list[str]) -> list[Output]:
        """Translations in the order of the texts, computed in batches of like length, the longest first.

        A text of more than max_tokens tokens is not translated: cut, it would be the translation of another caption.
        """
        ids = [self.tokenizer(self.languages.prefix + text, verbose=False).input_ids for text in texts]
        outputs = [Output("", "caption too long")] * len(texts)
        order = [i for i in range(len(ids)) if len(ids[i]) <= self.search.max_tokens]
        order.sort(key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            for i, output in zip(some, self._generate([ids[i] for i in some])):
                outputs[i] = output
        return outputs

    @torch.inference_mode()
    def _generate(self, ids: list[list[int]]) -> list[Output]:
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        settings: dict[str, Any] = {"num_beams": self.search.beams, "do_sample": False}
        if self.search.beams > 1:
            settings["length_penalty"] = self.search.length_penalty
        if self.languages.first is not None:
            settings["forced_bos_token_id"] = self.languages.first
        try:
            made = self.model.generate(
                **padded.to(self.model.device), **settings, max_new_tokens=self.search.max_tokens
            )
        except torch.cuda.OutOfMemoryError as error:
            raise ModelError(
                f"out of GPU memory with {self.batch} captions a batch: lower --translate.batch or --translate.beams"
            ) from error
        return [self._decode(row[1:]) for row in made.tolist()]  # without the decoder's start token

    def _decode(self, row: list[int]) -> Output:
        end = self.tokenizer.eos_token_id
        length = row.index(end) if end in row else len(row)
        text = self.tokenizer.decode([i for i in row[:length] if i != self.languages.first], skip_special_tokens=True)
        # Many a config forces the end token in the last place: an output that fills all places was cut.
        cut = length + 1 >= self.search.max_tokens
        return Output(" ".join(text.split()), "cut at max_tokens" if cut else "")


def load_translator(
    folder: Path,
    flag: str,
    direction: Direction,
    search: Search,
    batch: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Translator:
    """Load a translation model.

    Raises ModelError when the folder holds none, it is incomplete, or of another direction.
    """
    where = f"--{flag} {folder}"
    kind = read_config(folder, flag).get("model_type")
    try:
        config = AutoConfig.from_pretrained(folder)
        if not config.is_encoder_decoder:
            raise ModelError(f"{where}: model_type {kind!r} is no translation model; give a Marian, NLLB or M2M100")
        with warnings.catch_warnings():
            # Marian's tokenizer asks for it and never calls it.
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: its config or tokenizer cannot be read ({reason}); download it again") from error
    positions = getattr(config, "max_position_embeddings", search.max_tokens)
    if search.max_tokens > positions:
        raise ModelError(
            f"{where}: it has {positions} positions and --translate.max_tokens asks for {search.max_tokens}"
        )
    languages = languages_of(tokenizer, where, direction)
    model = _load_model(folder, where, dtype).to(device)
    return Translator(model, tokenizer, languages, search, batch)


def _load_model(folder: Path, where: str, dtype: torch.dtype) -> Any:
    try:
        model, info = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: its weights cannot be read ({reason}); download it again") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{where}: {len(missing)} tensors are missing, the first is {missing[0]}; download it again")
    own: GenerationConfig = model.generation_config
    own.max_length = None  # max_tokens decides
    return model.requires_grad_(False).train(False)


def languages_of(tokenizer: PreTrainedTokenizerBase, where: str, direction: Direction) -> Languages:
    """What the model must be told. Raises ModelError when it does not know the two languages."""
    if hasattr(tokenizer, "source_lang"):
        return _marian_languages(tokenizer, where, direction)
    if not hasattr(tokenizer, "src_lang"):
        raise ModelError(
            f"{where}: {type(tokenizer).__name__} names no languages; give a Marian, NLLB or M2M100 translation model"
        )
    for english, chinese in zip(ENGLISH, CHINESE):
        if _known(tokenizer, english[1]) is not None and _known(tokenizer, chinese[1]) is not None:
            named = {"en": english, "zh": chinese}
            break
    else:
        raise ModelError(f"{where}: its vocabulary has no tokens for English and Chinese such as eng_Latn, zho_Hans")
    tokenizer.src_lang = named[direction.source][0]
    code, token = named[direction.target]
    if direction.code:
        token = token.replace(code, direction.code)
    first = _known(tokenizer, token)
    if first is None:
        raise ModelError(
            f"{where}: its vocabulary has no {token} that --translate.target_code {direction.code} asks for"
        )
    return Languages(first=first)


def _marian_languages(tokenizer: PreTrainedTokenizerBase, where: str, direction: Direction) -> Languages:
    codes = sorted(token for token in tokenizer.get_vocab() if token.startswith(">>") and token.endswith("<<"))
    wanted = (f">>{direction.code}<<",) if direction.code else PREFIXES[direction.target]
    prefix = next((token for token in wanted if token in codes), "")
    if direction.code and not prefix:
        raise ModelError(
            f"{where}: it has no target language {wanted[0]}; it has {', '.join(codes) or 'none to choose'}"
        )
    if codes and not prefix:
        raise ModelError(f"{where}: its target languages are {', '.join(codes)}: none for {direction.target!r}")
    named = {"source": getattr(tokenizer, "source_lang", None), "target": getattr(tokenizer, "target_lang", None)}
    for side, language in (("source", direction.source), ("target", direction.target)):
        # A model of several targets is named after a family of languages.
        if named[side] and named[side] not in MARIAN[language] and not (prefix and side == "target"):
            raise ModelError(
                f"{where}: it translates from {named['source']} to {named['target']}, "
                f"not from {direction.source} to {direction.target}"
            )
    return Languages(prefix=f"{prefix} " if prefix else "")


def _known(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def model_folder(model: str, flag: str) -> Path:
    """The model's folder, local or from the hub."""
    folder = resolve(model, flag, PATTERNS)
    if folder.is_file():
        raise ModelError(f"--{flag} {model}: a file; give the folder of a translation model, or a hub id")
    return folder


def files_sha256(folder: Path) -> str:
    """Digest of a model's files: other weights under the same name are another model."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        total.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()
