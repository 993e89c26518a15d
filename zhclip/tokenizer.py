"""Which serialised tokenizers an artifact may carry: those of the BERTs that the trainer aligns, and no others.

`tokenizers` runs what a file says: a regular expression of the file's own can take longer than the sun, and a chain of
replacements can turn a letter into gigabytes. So the parts and their settings are compared with what BERT's WordPiece
and XLM-RoBERTa's Unigram are made of (transformers' BertTokenizer and XLMRobertaTokenizer, and the tokenizer.json files
that are published for them), before the library sees them.
"""

from __future__ import annotations

import base64
import binascii
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .io import ArtifactError, DamagedArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST = 64 << 20  # bytes; of XLM-RoBERTa's 250,000 pieces with its charsmap it is 17 MB
PARTS = 8  # of a sequence
ADDED = 1_000  # tokens beside the vocabulary
# Characters that WordPiece tries to divide, Google's number: its work grows with their square. Freeing a Unigram's trie
# recurses once for each character of its longest piece: one of a million ends the process by a segmentation fault.
WORD = 200
NAME = 100  # characters of a token that is named by itself
PREFIX = 8  # characters before a piece inside a word, each time that one is looked up
LONGEST_ENTRY = 64  # bytes that one character may become; by NFKC it is 33
# Regular expressions that published tokenizers hold, all linear: runs of spaces.
SPACES = (" {2,}",)

# What each kind holds beside its type, and of which type. A value that must be judged has a function.
Rule = type | tuple[type, ...] | Callable[[Any], bool]
NONE = type(None)


class _Refused(Exception):
    """What the tokenizer holds, and what it may hold."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected


def read(path: str | os.PathLike[str], serialised: bytes, vocabulary: int | None = None) -> Tokenizer:
    """The tokenizer of these bytes, which gives ids below `vocabulary`, where that is known.

    Raises DamagedArtifactError for one that may not be, whatever the library makes of it.
    """
    check(path, serialised, vocabulary)
    with refused(path):
        from tokenizers import Tokenizer  # which no start of ComfyUI has to wait for

        tokenizer = Tokenizer.from_str(serialised.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
    # Special ones are text here and give no id; transformers adds a [MASK] that the embedding lacks.
    for number, token in added.items():
        if not token.special and vocabulary is not None and number >= vocabulary:
            raise _damaged(path, f"token {token.content!a} of id {number}", f"ids below {vocabulary}, the vocabulary's")
    return tokenizer


@contextmanager
def refused(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the library throws inside, as DamagedArtifactError. It throws Exception itself, and a panic of its Rust
    throws a BaseException, which would end the thread of a host that catches Exception."""
    try:
        yield
    except ArtifactError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        found = f"a tokenizer that the tokenizers library cannot run ({_short(error)})"
        raise _damaged(path, found, "a BERT's tokenizer") from error


def check(path: str | os.PathLike[str], serialised: bytes, vocabulary: int | None = None) -> None:
    """Refuse a tokenizer that an artifact may not carry. Raises DamagedArtifactError."""
    try:
        _check(serialised, vocabulary)
    except _Refused as refusal:
        raise _damaged(path, refusal.found, refusal.expected) from None


def _check(serialised: bytes, vocabulary: int | None) -> None:
    if len(serialised) > LARGEST:
        raise _Refused(f"a tokenizer of {len(serialised)} bytes", f"at most {LARGEST}")
    raw = _parsed(serialised)
    if type(raw) is not dict:
        raise _Refused("a tokenizer that is no JSON object", "one")
    unknown = sorted(set(raw) - {"version", "truncation", "padding", "added_tokens", *COMPONENTS, "model"})
    if unknown:
        raise _Refused(f"a tokenizer with {_short(unknown[0])}", "what `tokenizers` writes")
    _check_added(raw.get("added_tokens"))
    for name, kinds in COMPONENTS.items():
        if raw.get(name) is not None:
            _check_component(name, raw[name], kinds)
    if "model" not in raw:
        raise _Refused("a tokenizer without a model", "a WordPiece or Unigram model")
    _check_component("model", raw["model"], MODEL)
    _check_ids(raw["model"], vocabulary)


def _parsed(serialised: bytes) -> Any:
    """JSON without repeated keys, of which the library might read another one than was looked at."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key twice")
        return made

    # A quarter of a million small lists set the collector off again and again: it takes twice the parser's time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(serialised.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise _Refused(f"a tokenizer that is no JSON ({_short(error)})", "the `tokenizers` serialisation") from error
    finally:
        if enabled:
            gc.enable()


def _check_component(name: str, part: Any, kinds: dict[str, dict[str, Rule]]) -> None:
    kind = part.get("type") if type(part) is dict else None
    rules = kinds.get(kind) if type(kind) is str else None
    if rules is None:
        raise _Refused(f"a tokenizer whose {name} is {_short(kind)}", ", ".join(kinds))
    for key in {*part, *rules} - {"type"}:
        if key not in rules or (key not in part and key not in OPTIONAL):
            raise _Refused(
                f"a tokenizer whose {kind} {'has' if key in part else 'lacks'} {_short(key)}", "its settings"
            )
    for key, rule in rules.items():
        if key in part and not _obeys(part[key], rule):
            raise _Refused(f"a tokenizer whose {kind} has {_short(key)} {_short(part[key])}", "one as BERTs have it")
    if kind == "Sequence":
        parts = next(value for key, value in part.items() if key != "type")
        flat = {known: rule for known, rule in kinds.items() if known != "Sequence"}
        for each in parts:
            _check_component(name, each, flat)
        # Twice NFKC with a replacement between them multiplies.
        expanding = [each["type"] for each in parts if each["type"] in ("NFKC", "Precompiled", "BertNormalizer")]
        if len(expanding) != len(set(expanding)):
            raise _Refused(f"a tokenizer whose {name} has {expanding[0]} twice", "it once")


def _obeys(value: Any, rule: Rule) -> bool:
    if isinstance(rule, (type, tuple)):
        kinds = rule if isinstance(rule, tuple) else (rule,)
        return type(value) in kinds
    return rule(value)


def _check_added(tokens: Any) -> None:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if tokens is not None and (type(tokens) is not list or len(tokens) > ADDED):
        raise _Refused("a tokenizer whose added_tokens are too many or no list", f"a list of at most {ADDED}")
    for token in tokens or []:
        good = type(token) is dict and set(token) == {"id", "content", *flags}
        good = good and type(token["id"]) is int and all(type(token[flag]) is bool for flag in flags)
        if not good or not _is_name(token["content"]):
            raise _Refused(f"a tokenizer with the added token {_short(token)}", "id, content and five flags")


def _check_ids(model: dict[str, Any], vocabulary: int | None) -> None:
    """That every piece has a row of the embedding, and the unknown one is there."""
    pieces = model["vocab"]
    if model["type"] == "Unigram":
        highest = len(pieces) - 1
        if any(len(piece[0]) > WORD for piece in pieces if type(piece) is list and piece and type(piece[0]) is str):
            raise _Refused(f"a tokenizer with a piece of over {WORD} characters", f"pieces of at most {WORD}")
        if not 0 <= model["unk_id"] < len(pieces):
            raise _Refused(f"a tokenizer whose unk_id is {_short(model['unk_id'])}", "one of its pieces")
    else:
        if not pieces or set(map(type, pieces.values())) != {int} or min(pieces.values()) < 0:
            raise _Refused("a tokenizer whose vocabulary is empty or maps to something else", "pieces with ids")
        highest = max(pieces.values())
        if model["unk_token"] not in pieces:
            raise _Refused(f"a tokenizer without {model['unk_token']!a}, its unknown token", "it in the vocabulary")
    if vocabulary is not None and highest >= vocabulary:
        raise _Refused(f"a tokenizer with id {_short(highest)}", f"ids below {vocabulary}, the vocabulary's size")


def _is_replacement(pattern: Any) -> bool:
    if type(pattern) is not dict or len(pattern) != 1:
        return False
    return bool(_is_name(pattern.get("String"))) or pattern.get("Regex") in SPACES


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= NAME


def _is_short(value: Any) -> bool:
    return type(value) is str and len(value) <= PREFIX


def _is_one(value: Any) -> bool:
    """What a replacement puts in place of at least one character."""
    return type(value) is str and len(value) <= 1


def _is_charsmap(value: Any) -> bool:
    """sentencepiece's: a length, a trie of so many bytes, and texts that end with 0."""
    try:
        raw = base64.b64decode(value, validate=True) if type(value) is str else b""
    except binascii.Error:
        return False
    size = int.from_bytes(raw[:4], "little")
    texts = raw[4 + size :]
    if len(raw) < 8 or size % 4 or not texts.endswith(b"\0"):
        return False
    return max(map(len, texts.split(b"\0"))) <= LONGEST_ENTRY


def _is_sequence(value: Any) -> bool:
    return type(value) is list and len(value) <= PARTS


def _is_template(value: Any) -> bool:
    """Pieces of which exactly one is the text: it would be repeated as often as it stands there."""
    if not _is_sequence(value) or not all(type(piece) is dict and len(piece) == 1 for piece in value):
        return False
    inside = [piece["Sequence"].get("id") for piece in value if type(piece.get("Sequence")) is dict]
    return len(inside) == len(set(map(str, inside))) and "A" in inside


def _are_named(value: Any) -> bool:
    """The tokens that frame a text, each one of the vocabulary."""
    return type(value) is dict and len(value) <= PARTS and all(_frames(each) for each in value.values())


def _frames(each: Any) -> bool:
    return type(each) is dict and type(each.get("ids")) is list and len(each["ids"]) == 1


OPTIONAL = ("split", "byte_fallback")  # which older versions of the library do not write
SPACE: dict[str, Rule] = {
    "replacement": lambda value: type(value) is str and len(value) == 1,
    "prepend_scheme": str,
    "split": bool,
}
NORMALIZERS: dict[str, dict[str, Rule]] = {
    "Sequence": {"normalizers": _is_sequence},
    "BertNormalizer": {
        "clean_text": bool,
        "handle_chinese_chars": bool,
        "strip_accents": (bool, NONE),
        "lowercase": bool,
    },
    "NFKC": {},
    "Precompiled": {"precompiled_charsmap": _is_charsmap},
    "Replace": {"pattern": _is_replacement, "content": _is_one},
    "Strip": {"strip_left": bool, "strip_right": bool},
}
PRE_TOKENIZERS: dict[str, dict[str, Rule]] = {
    "Sequence": {"pretokenizers": _is_sequence},
    "BertPreTokenizer": {},
    "WhitespaceSplit": {},
    "Metaspace": SPACE,
}
POST_PROCESSORS: dict[str, dict[str, Rule]] = {
    "TemplateProcessing": {"single": _is_template, "pair": _is_sequence, "special_tokens": _are_named},
    "BertProcessing": {"sep": list, "cls": list},
}
DECODERS: dict[str, dict[str, Rule]] = {
    "WordPiece": {"prefix": _is_short, "cleanup": bool},
    "Metaspace": SPACE,
}
MODEL: dict[str, dict[str, Rule]] = {
    "WordPiece": {
        "unk_token": _is_name,
        "continuing_subword_prefix": _is_short,
        "max_input_chars_per_word": lambda value: type(value) is int and 0 < value <= WORD,
        "vocab": dict,
    },
    "Unigram": {"unk_id": int, "vocab": list, "byte_fallback": lambda value: value is False},
}
COMPONENTS = {
    "normalizer": NORMALIZERS,
    "pre_tokenizer": PRE_TOKENIZERS,
    "post_processor": POST_PROCESSORS,
    "decoder": DECODERS,
}


def _short(value: Any) -> str:
    text = ascii(str(value)[:200])[1:-1]
    return text if len(text) <= 80 else text[:80] + "..."


def _damaged(path: str | os.PathLike[str], found: str, expected: str) -> ArtifactError:
    cure = "Use the tokenizer that was published with the encoder, and export it again."
    return DamagedArtifactError(path, found, expected, cure)
