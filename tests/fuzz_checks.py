"""Hostile files and prompts, drawn from a seed, in a process that can import ComfyUI: for host.in_host.

Each is taken by the trainer's reader and by the node alike, or refused by both in one sentence; none ends the process.
"""

from __future__ import annotations

import functools
import json
import math
import resource
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

import torch
from in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import small  # type: ignore[import-not-found]

MEMORY = 2 << 30  # bytes of address space beyond what the process has before the first case
SENTENCE = 700  # characters of a refusal, without the path
ROUNDING = 1e-5  # of one encoding in fp32, whose vectors have norms of 27 to 29: four times the largest seen
PROMPT = "(red:1.3) cat, 1,000 \u732b\u72d7 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! </s> [SEP] \U0001f6f8 zz"
LISTS: dict[str, list[Any]] = json.loads((small.DATA / "fuzz.json").read_text(encoding="utf-8"))
ODD_PROMPTS: list[str] = json.loads((small.DATA / "odd.json").read_text(encoding="utf-8"))
VALUES = [*LISTS["values"], "x" * 20_000, "\u732b" * 9_999, small.nested(20), small.nested(40)]
SHAPE: dict[str, Any] = {"width": 16, "layers": 1, "window": 12}
BASES = {
    "whole": lambda: small.artifact(teacher_width=32, **SHAPE),
    "plain": lambda: small.artifact(structured=False, teacher_width=16, **SHAPE),
    "skip": lambda: small.artifact(skip=True, teacher_width=32, **SHAPE),
    "sdxl": lambda: small.sdxl_artifact(**SHAPE),
    "unigram": lambda: small.unigram_artifact(small.CHARSMAP),
}


def write_file(base: str, chance: Random | None, path: Path) -> Path:
    """An encoder's file, with one to three changes of its metadata, tensors or bytes if there is `chance`."""
    artifact, damages = BASES[base](), 0
    meta, tensors = json.loads(artifact.meta.to_json()), artifact.tensors()
    for _ in range(chance.choice([1, 1, 2, 3]) if chance else 0):
        assert chance is not None
        kind = chance.choice(["meta", "meta", "tensor", "vocabulary", "bytes"])
        name = "tokenizer.vocabulary" if kind == "vocabulary" else chance.choice(LISTS["tensors"])
        if kind == "meta":
            small.put(meta, chance.choice(LISTS["meta"]), chance.choice(VALUES))
        elif kind == "bytes" or name not in tensors:
            damages += 1
        elif kind == "vocabulary" and tensors[name].dtype == torch.uint8:  # as no earlier change made it
            content = change_bytes(tensors[name].numpy().tobytes(), chance)
            tensors[name] = torch.tensor(list(content), dtype=torch.uint8)
        else:
            change_tensor(tensors, name, chance.choice(LISTS["changes"]))
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, {"zhclip": json.dumps(meta)})
    for _ in range(damages):
        path.write_bytes(change_bytes(path.read_bytes(), chance or Random()))
    return path


def change_bytes(content: bytes, chance: Random) -> bytes:
    """Bytes cut short, or with some changed, inserted, dropped or repeated."""
    at, length = int(len(content) * chance.random() ** chance.choice([1, 8])), int(10 ** chance.uniform(0, 4))
    before, part, after = content[:at], content[at : at + length], content[at + length :]
    token = chance.choice(LISTS["tokens"]).encode("utf-8", "surrogatepass") * (1 + length // 9)
    flipped = bytes([chance.randrange(256)]) + part[1:] + after
    return before + chance.choice([b"", flipped, token + part + after, after, part * 3 + after])


def change_tensor(tensors: dict[str, torch.Tensor], name: str, kind: str) -> None:
    tensor = tensors.pop(name)
    if kind == "more":
        tensors |= {name: tensor, f"{name}.more": tensor}
    elif kind in ("nan", "inf", "huge") and tensor.is_floating_point() and len(tensor):
        value = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[kind]
        tensors[name] = tensor.index_fill(0, torch.tensor([len(tensor) - 1]), value)
    elif kind in ("flat", "empty", "longer"):
        tensors[name] = {"flat": tensor.reshape(-1), "empty": tensor[:0], "longer": torch.cat([tensor] * 2)}[kind]
    elif hasattr(torch, kind):
        tensors[name] = tensor.to(getattr(torch, kind))


def draw_prompt(chance: Random) -> str:
    """A text of odd words, of any characters or of syntax; one of ten is long and of one kind."""
    kind = chance.randrange(10)
    if kind == 0:
        unit = "".join(chance.choices(LISTS["units"], k=chance.randint(1, 3)))
        text = unit * int(10 ** chance.uniform(1, math.log10(20_000 / len(unit))))
    elif kind < 4:
        text = "".join(chance.choices([*ODD_PROMPTS, *"():,", "BREAK", "red", "\\("], k=chance.randint(1, 6)))[:300]
    elif kind < 7:
        characters = range(chance.choice([0x250, 0x3100, 0x10000, 0x110000]))
        text = "".join(map(chr, chance.choices(characters, k=chance.randint(1, 120))))
    else:
        text = "".join(chance.choices("(): 1.3ab\u732b,\\", k=chance.randint(1, 40)))
    return json.loads(json.dumps(text))  # joins the halves of a surrogate pair, as on the way to the node


def try_file(path: Path) -> bool:
    """Whether the trainer's reader and the node take a file; both do, or both refuse it in a sentence."""
    from trainer.models.student import Student
    from zhclip.artifact import is_artifact, load
    from zhclip.io import ArtifactError

    is_artifact(path)
    taken = []
    for read in (lambda: Student.from_artifact(load(path)).encode_prompt(PROMPT), lambda: read_in_node(path)):
        try:
            read()
            taken.append(True)
        except (ArtifactError, module("zhclip.io").ArtifactError) as error:
            taken.append(False)
            said = str(error).replace(str(path), "")
            assert str(path) in str(error) and len(said) < SENTENCE and "\n" not in said, error
    assert taken[0] == taken[1], f"trainer: {taken[0]}, node: {taken[1]}"
    return taken[0]


@functools.cache
def module(name: str) -> Any:
    """A module of the pack as ComfyUI has it."""
    return pack_module(name)


def read_in_node(path: Path) -> None:
    """What the loader, a prompt and other packs read of a file."""
    module("nodes.report").summary(module("zhclip.artifact").read_meta(path))
    clip = module("nodes.host.clip").load_clip(str(path))
    clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    clip.tokenizer.clip_l.tokenizer.decode([0, 1, 2, 3, 5])
    clip.tokenizer.clip_l.untokenize(clip.tokenize("cat")["l"][0])


@functools.cache
def encoders(path: Path) -> tuple[Any, Any]:
    """The same encoder as a CLIP and as the trainer's Student in double precision."""
    from trainer.models.student import Student

    options: dict[str, Any] = {"width": 64, "teacher_width": 64}
    small.saved(path, **options)
    return module("nodes.host.clip").load_clip(str(path)), Student.from_artifact(small.artifact(**options)).double()


def try_prompt(text: str, folder: Path) -> bool:
    """Whether a prompt is taken; the node's vectors are then the trainer's."""
    from zhclip.emphasis import weighted_spans
    from zhclip.languages import route, spans

    clip, student = encoders(folder / "prompts.safetensors")
    try:
        windows = student.tokens.weighted_windows(text)
    except ValueError as error:
        assert len(str(error)) < SENTENCE
        return False
    assert {segment.language for segment in route(text)} <= {"zh", "en"} and spans(text) is not None
    if len(windows) > 8:
        return bool(clip.tokenize(text))
    node, mine = clip.encode_from_tokens(clip.tokenize(text))[0], student.encode_prompt(text)
    assert node.shape == mine.shape and torch.isfinite(node).all()
    off = (node - mine).abs().reshape(len(windows), -1).amax(dim=1)
    for each, window in zip(off, windows):
        # Each span adds (w - 1) times the difference of two encodings, however much of it cancels in the sum.
        assert float(each) <= ROUNDING * (1 + sum(2 * abs(w - 1) for _, w in weighted_spans(window.weights))), float(
            each
        )
    return True


def fuzz_both(at: str, count: str) -> dict[str, Any]:
    """Try as many files and prompts. Returns how many of each were taken, and the faults."""
    folder, taken, faults = Path(at), {"files": 0, "prompts": 0}, []
    path = folder / "encoder.safetensors"
    with torch.inference_mode():
        assert all(try_file(write_file(base, None, path)) for base in BASES) and try_prompt("red cat", folder)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(int(count)):
            chance = Random(f"file {number}")
            print("file", number, file=sys.stderr, flush=True)
            try:
                taken["files"] += try_file(write_file(chance.choice(sorted(BASES)), chance, path))
            except BaseException:
                faults.append(["file", number, traceback.format_exc()[-1500:]])
        for text in [*ODD_PROMPTS, *(draw_prompt(Random(f"prompt {number}")) for number in range(int(count)))]:
            print("prompt", ascii(text)[:500], file=sys.stderr, flush=True)
            try:
                taken["prompts"] += try_prompt(text, folder)
            except BaseException:
                faults.append(["prompt", text, traceback.format_exc()[-1500:]])
    return {"taken": taken, "faults": faults}
