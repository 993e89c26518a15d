"""Hostile files and prompts in a process that can import ComfyUI: for host.in_host.

Prints each case before it is tried.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import fuzz  # type: ignore[import-not-found]
import small  # type: ignore[import-not-found]

MEMORY = 2 << 30  # bytes of address space beyond what the process has before the first case
SENTENCE = 700  # characters of a refusal, without the path
ROUNDING = 1e-5  # of one encoding in fp32, whose vectors have norms of 27 to 29: four times the largest seen
PROMPT = "(red:1.3) cat, 1,000 \u732b\u72d7 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! </s> [SEP] \U0001f6f8 zz"
SHAPE: dict[str, Any] = {"width": 16, "layers": 1, "window": 12}
BASES = {
    "whole": lambda: small.artifact(teacher_width=32, **SHAPE),
    "plain": lambda: small.artifact(structured=False, teacher_width=16, **SHAPE),
    "skip": lambda: small.artifact(skip=True, teacher_width=32, **SHAPE),
    "sdxl": lambda: small.sdxl_artifact(**SHAPE),
    "unigram": lambda: small.unigram_artifact(small.CHARSMAP),
}


def build(case: dict[str, Any], path: Path) -> None:
    """Write the file that a case describes."""
    artifact = BASES[case["base"]]()
    meta, tensors = json.loads(artifact.meta.to_json()), artifact.tensors()
    for kind, *given in case["steps"]:
        if kind == "meta":
            fuzz.put(meta, *given)
        elif kind == "vocabulary" and "tokenizer.vocabulary" in tensors:  # an earlier step may have taken it out
            content = fuzz.change(tensors["tokenizer.vocabulary"].numpy().tobytes(), given)
            tensors["tokenizer.vocabulary"] = torch.tensor(list(content), dtype=torch.uint8)
        elif kind == "tensor" and given[0] in tensors:
            change_tensor(tensors, *given)
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, {"zhclip": fuzz.dump(meta)})
    for kind, *given in case["steps"]:
        if kind == "bytes":
            path.write_bytes(fuzz.change(path.read_bytes(), given))


def change_tensor(tensors: dict[str, torch.Tensor], name: str, kind: str) -> None:
    tensor = tensors.pop(name)
    if kind == "more":
        tensors |= {name: tensor, f"{name}.more": tensor}
    elif kind in ("nan", "inf", "huge") and tensor.is_floating_point():
        value = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[kind]
        tensors[name] = tensor.index_fill(0, torch.tensor([len(tensor) - 1]), value)
    elif kind in ("flat", "empty", "longer"):
        tensors[name] = {"flat": tensor.reshape(-1), "empty": tensor[:0], "longer": torch.cat([tensor] * 2)}[kind]
    elif hasattr(torch, kind):
        tensors[name] = tensor.to(getattr(torch, kind))


def try_file(case: dict[str, Any], folder: Path) -> bool:
    """Whether the trainer's reader and the node take a file; both do, or both refuse it in a sentence."""
    from trainer.models.student import Student
    from zhclip.artifact import is_artifact, load
    from zhclip.io import ArtifactError

    path = folder / "encoder.safetensors"
    build(case, path)
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


def try_prompt(case: Any, folder: Path) -> bool:
    """A prompt is taken, and the node's vectors are the trainer's; a refused one is refused by both."""
    from zhclip.emphasis import weighted_spans
    from zhclip.languages import route, spans

    text = fuzz.grow(case)
    clip, student = encoders(folder / "prompts.safetensors")
    try:
        windows = student.tokens.weighted_windows(text)
    except ValueError as error:
        assert len(str(error)) < SENTENCE
        return False
    assert {segment.language for segment in route(text)} <= {"zh", "en"} and spans(text) is not None
    for window in windows:
        end = window.ids.index(student.tokens.special.end)
        assert len(window.ids) == len(window.weights) == 77 and set(window.ids[end + 1 :]) <= {0}
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


def fuzz_both(at: str, tries_each: str) -> dict[str, Any]:
    """Try as many cases of files and of prompts. Returns how many of each were taken, and the faults."""
    folder, counts = Path(at), {"files": int(tries_each), "prompts": int(tries_each)}
    tries = {"files": try_file, "prompts": try_prompt}
    taken, faults = dict.fromkeys(counts, 0), []
    with torch.inference_mode():
        for base in BASES:
            assert try_file({"base": base, "steps": []}, folder), base
        assert try_prompt("red cat", folder)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for kind, count in counts.items():
            odd = fuzz.ODD_PROMPTS if kind == "prompts" else []
            for case in [*odd, *fuzz.cases(kind, count)]:
                print(kind, json.dumps(case)[:500], file=sys.stderr, flush=True)
                try:
                    taken[kind] += tries[kind](case, folder)
                except BaseException:
                    faults.append([kind, case, traceback.format_exc()[-1500:]])
    return {"taken": taken, "faults": faults}
