"""Tries hostile inputs in turn, inside a real ComfyUI: `python -m tests.fuzz_child FOLDER COMFYUI < JOBS`.

tests/fuzzer.py starts it. A job is a line of JSON, [kind, number, case]. Before each one its number is written to
stdout, and after it a line of JSON: refused is the sentence, or "" where the input was taken; fault says what must not
be; cpu is seconds of the process, memory the growth of its peak in MB.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib
import json
import os
import resource
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests import fuzz_cases, small
from tests.fuzz_cases import changed, dumped, grown, put

CPU = 1.0  # seconds of a case
MEMORY = 128  # MB of a case above its own size
ROOM = 2 << 30  # bytes of address space beyond what the process has when the first case begins
SENTENCE = 700  # characters of what is said, without paths
ROUNDING = 1e-5  # of one encoding in fp32, whose vectors have norms of 27 to 29: four times the largest seen
WIDTH, WINDOW = 32, 12
SHAPES: dict[str, dict[str, Any]] = {
    "whole": {},
    "plain": {"structured": False, "teacher_width": 16},
    "skip": {"skip": True},
}


class Refused(Exception):
    """An input was refused as it should be; the message is what was said."""


@contextlib.contextmanager
def refusing(*errors: type[BaseException]) -> Iterator[None]:
    """These errors of ours are a refusal."""
    try:
        yield
    except errors as error:
        raise Refused(str(error)) from error


@functools.cache
def pack(name: str) -> Any:
    """A module of the pack as ComfyUI has it."""
    from tests.encode_in_host import pack_module

    return sys.modules.get(f"pack.{name}") or (
        importlib.import_module(f"pack.{name}") if "pack" in sys.modules else pack_module(name)
    )


# Files.


def build(case: dict[str, Any], path: Path) -> None:
    """The file that a case describes."""
    from safetensors import safe_open

    base = path.with_name(f"{case['base']}.base")
    if not base.exists():
        small.saved(base, **{"width": 16, "teacher_width": WIDTH, "layers": 1, "window": WINDOW} | SHAPES[case["base"]])
    with safe_open(base, "pt") as file:
        headers, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    meta, tokenizer = json.loads(headers["zhclip"]), json.loads(tensors["tokenizer_json"].numpy().tobytes())
    said: dict[str, str] = {}
    steps = case["steps"]
    for what, *given in steps:
        if what == "meta":
            put(meta, given[0], given[1:])
        elif what == "tokenizer":
            put(tokenizer, given[0], given[1:])
        elif what in ("text", "json"):
            said[what] = grown(given[0])
    headers["zhclip"] = said.get("text", dumped(meta))
    serialised = said.get("json", dumped(tokenizer)).encode()
    tensors["tokenizer_json"] = torch.frombuffer(bytearray(serialised or b" "), dtype=torch.uint8)[: len(serialised)]
    for what, *given in steps:
        if what == "tensor" and given[0] in tensors:
            change_tensor(tensors, *given)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, headers)
    for what, *given in steps:
        if what == "header":
            path.write_bytes(with_entry(path.read_bytes(), *given))
        elif what == "bytes":
            path.write_bytes(changed(path.read_bytes(), given))


def change_tensor(tensors: dict[str, torch.Tensor], name: str, change: str) -> None:
    tensor = tensors[name]
    if change == "drop":
        del tensors[name]
    elif change == "more":
        tensors[f"{name}.more"] = tensor
    elif change in ("nan", "inf", "huge"):
        value = 255 if name == "tokenizer_json" else {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[change]
        tensors[name] = tensor.index_fill(0, torch.tensor([len(tensor) - 1]), value)
    else:
        shaped = {"flat": tensor.reshape(-1), "empty": tensor[:0], "longer": torch.cat([tensor, tensor])}
        tensors[name] = shaped[change] if change in shaped else tensor.to(getattr(torch, change))


def with_entry(content: bytes, name: str, key: str, value: Any) -> bytes:
    """The file with another entry in its header; without a key in place of the whole entry."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError):  # changed before
        return content
    if not key:
        header[name] = value
    elif isinstance(header.get(name), dict):
        key, _, at = key.partition(".")
        if at and isinstance(header[name].get(key), list) and int(at) < len(header[name][key]):
            header[name][key][int(at)] = value
        elif not at:
            header[name][key] = value
    text = dumped(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def files(case: dict[str, Any], folder: Path) -> None:
    """By the trainer's reader and by the node: both take it, or both refuse it."""
    from trainer.models.student import Student
    from zhclip.artifact import ArtifactError, is_artifact, load

    path = folder / "encoder.safetensors"
    build(case, path)
    yield_size(path.stat().st_size)
    is_artifact(path)
    said = []
    for read in (lambda: Student.from_artifact(load(path)).encode_prompt(PROMPT), lambda: in_node(path)):
        try:
            read()
            said.append("")
        except (ArtifactError, pack("zhclip.artifact").ArtifactError) as error:
            assert str(path) in str(error), f"no path in {error}"
            said.append(str(error).replace(str(path), "PATH"))
    assert bool(said[0]) == bool(said[1]), f"trainer: {said[0] or 'taken'}; node: {said[1] or 'taken'}"
    if said[1]:
        raise Refused(said[1])


PROMPT = "(red:1.3) cat, 1,000 \u732b\u72d7 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! </s> [SEP] \U0001f6f8 zz"


def in_node(path: Path) -> None:
    """What the loader, a prompt and the Inspector read of a file."""
    report = pack("nodes.report")
    meta = pack("zhclip.artifact").read_meta(path)
    report.summary(meta), report.alignment_doubt(meta)
    clip = pack("nodes.host.clip").load_clip(str(path))
    clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    clip.tokenizer.clip_l.tokenizer.decode([0, 1, 2, 3, 5])
    clip.tokenizer.clip_l.untokenize(clip.tokenize("cat")["l"][0])
    pack("nodes.page").to_text(pack("nodes.inspector").inspect(clip, PROMPT, None, "", None, ""))


# Prompts.


@functools.cache
def encoders(path: Path) -> tuple[Any, Any, Any]:
    """The same encoder as a CLIP and in double precision, so that the difference is the node's own rounding and not
    that of two; and SD1.5's CLIP as core builds it, small and with random weights."""
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    from trainer.models.student import Student

    options: dict[str, Any] = {"width": 64, "teacher_width": 64}
    small.saved(path, **options)
    torch.manual_seed(0)
    file = Path(sys.modules[SD1ClipModel.__module__].__file__ or "").with_name("sd1_clip_config.json")
    config = json.loads(file.read_text(encoding="utf-8")) | {"num_hidden_layers": 1, "hidden_size": 64}
    config |= {"intermediate_size": 128, "num_attention_heads": 4, "projection_dim": 64}
    second = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options={"clip_l_model_config": config})
    for value in second.cond_stage_model.state_dict().values():
        value.normal_(std=0.02)
    student = Student.from_artifact(small.artifact(**options)).double()
    return pack("nodes.host.clip").load_clip(str(path)), student, second


def prompts(case: Any, folder: Path) -> None:
    """Through parser, languages and tokenizer; then, unless it is long, through both text encode nodes."""
    from zhclip.languages import route, spans
    from zhclip.prompt import PromptError, normalise, parse

    text = grown(case)
    clip, student, second = encoders(folder / "prompts.safetensors")
    try:
        plain = "".join(span.text for span in parse(normalise(text)))
    except PromptError:  # too many brackets within each other
        return
    assert "".join(span.text for span in spans(text)) == plain, "spans lose text"
    assert {segment.language for segment in route(text)} <= {"zh", "en"}
    windows = student.tokens.weighted_windows(text)
    for window in windows:
        end, special = window.ids.index(student.tokens.special.end), student.tokens.special
        assert len(window.ids) == len(window.weights) == 77 and window.ids[0] == special.start
        assert set(window.ids[end + 1 :]) <= {special.pad}
        assert {window.weights[0], *window.weights[end:]} == {1.0}
    student.tokens.unknown(text), pack("nodes.host.clip").tokenizer_of(clip).weighted_windows(text)
    if len(windows) > 8:
        clip.tokenize(text)
        return
    cond = importlib.import_module("nodes").CLIPTextEncode().encode(clip, text)[0][0][0][0]
    same_as_trained(cond, windows, student.encode_prompt(text))
    both = pack("nodes.encode").ZhCLIPTextEncode.execute(clip, text, second).result[0][0][0][0]
    assert torch.isfinite(both).all() and both.shape[0] % 77 == 0 and both.shape[0] > 0, "both"


def same_as_trained(node: torch.Tensor, windows: list[Any], mine: torch.Tensor) -> None:
    """Finite, and off by no more than a window's weights magnify: each span adds (w - 1) times the difference of two
    encodings, however much of it cancels in the sum."""
    from zhclip.emphasis import runs

    assert node.shape == mine.shape == (77 * len(windows), mine.shape[1]), "shape"
    assert torch.isfinite(node).all(), "not finite"
    off = (node - mine).abs().reshape(len(windows), -1).amax(dim=1)
    for each, window in zip(off, windows):
        bound = ROUNDING * (1 + sum(2 * abs(run.weight - 1) for run in runs(window.weights)))
        assert float(each) <= bound, f"off by {float(each) / bound:.1f} of the bound"


# Requests.


@functools.cache
def serving(folder: Path) -> int:
    """The port of ComfyUI's server in a thread, with our route, an encoder and files that are none."""
    import asyncio

    import folder_paths
    from aiohttp import web

    small.saved(folder / "encoder.safetensors", width=16, teacher_width=WIDTH, layers=1)
    small.saved(folder / "half.safetensors", width=16, teacher_width=WIDTH, layers=1)
    os.truncate(folder / "half.safetensors", 5000)
    build(
        {"base": "whole", "steps": [["tokenizer", "pre_tokenizer", fuzz_cases.LISTS["parts"][3]]]},
        folder / "hostile.safetensors",
    )
    save_file({"weight": torch.zeros(2)}, folder / "checkpoint.safetensors")
    (folder / "folder.safetensors").mkdir()
    folder_paths.add_model_folder_path("text_encoders", str(folder))
    started: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        served = importlib.import_module("server").PromptServer(asyncio.get_running_loop())
        pack("nodes.route").register()
        served.add_routes()
        runner = web.AppRunner(served.app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        started.append(runner.addresses[0][1])
        ready.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    assert ready.wait(60)
    return started[0]


def requests(case: dict[str, Any], folder: Path) -> None:
    """A body, its type and its encoding, as raw bytes over a socket to ComfyUI's own server."""
    folder = folder / "served"
    folder.mkdir(exist_ok=True)
    body = dumped(case["body"]).encode()
    for step in case["steps"]:
        body = changed(body, step)
    body = gzip.compress(body) if case.get("gzip") else body
    named = dict(case["headers"])
    half = "Transfer-Encoding" in named or named.get("Content-Length", "0") > str(len(body))
    if not {"Content-Length", "Transfer-Encoding"} & {*named}:
        named["Content-Length"] = str(len(body))
    named = {"Host": "127.0.0.1", "Connection": "close"} | named
    lines = [f"{case['method']} /zhclip/count HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    with socket.create_connection(("127.0.0.1", serving(folder)), timeout=30) as connection:
        with contextlib.suppress(OSError):  # it may hang up before it has read all
            connection.sendall("\r\n".join(lines).encode("utf-8", "surrogatepass") + body)
            if half:  # else it waits for more
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    status = int(answer[9:12]) if answer[:5] == b"HTTP/" else 0
    said = answer.partition(b"\r\n\r\n")[2].decode()
    assert status in range(200, 500) or half, answer[:300]
    if status == 200 and case["method"] not in ("HEAD", "OPTIONS"):
        assert {"windows", "room", "unknown", "spans"} == set(json.loads(said)), said[:300]
    else:
        raise Refused(json.loads(said)["error"] if said.startswith('{"error"') else f"HTTP {status}")


# Corpora and recipes.


def corpora(case: dict[str, Any], folder: Path) -> None:
    """A source as the corpus stage reads and cleans it."""
    from tests.corpora import WHOLE
    from trainer.base.recipe import SettingsError
    from trainer.base.settings import sources
    from trainer.corpus.lines import CorpusError
    from trainer.corpus.pairs import clean
    from trainer.corpus.readers import read, source_sha256

    folder = folder / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = WHOLE[case["base"]](folder)
    parts = sorted(path for path in folder.rglob("*") if path.is_file())
    file = parts[case["file"] % len(parts)]
    content = file.read_bytes()
    inside = case["inside"] and content[:2] == b"\x1f\x8b"
    content = gzip.decompress(content) if inside else content
    for step in case["steps"]:
        content = changed(content, step)
    file.write_bytes(gzip.compress(content) if inside else content)
    yield_size(len(content))
    if "rename" in case:
        renamed = file.with_name(f"corpus{case['rename']}")
        file.rename(renamed)
        source.path = str(renamed) if source.path == str(file) else source.path
    vars(source).update(case["source"])
    with refusing(CorpusError, SettingsError):
        sources([source])
        source_sha256(source)
        clean(read(source), len if source.zh else None, len, 99)


def recipes(case: dict[str, Any], folder: Path) -> None:
    """YAML and flags as the command line takes them, or a sweep's grid; what is taken is written and read again."""
    import yaml

    from trainer.base.recipe import Recipe, SettingsError
    from trainer.base.settings import (
        corpus_name,
        parse,
        parse_recipe,
        public,
        recipe_parser,
        sources,
        to_recipe,
        to_yaml,
    )
    from trainer.sweep.grid import read_grid

    root = Path(__file__).resolve().parent.parent
    loaded = yaml.safe_load((root / case["base"]).read_text(encoding="utf-8"))
    for name, value in case["set"].items():
        put(loaded, name, [value])
    content = dumped(loaded, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    content = content.replace(b"NaN", b".nan").replace(b"Infinity", b".inf")
    for step in case["steps"]:
        content = changed(content, step)
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    flags = [f"--{name}={grown(value)}".replace("\0", "") for name, value in case["flags"]]
    with refusing(SettingsError):
        if "sweeps" in case["base"]:
            read_grid(path, {"unet": "u", "captions": "c"}, Recipe())
            return
        recipe = to_recipe(parse(recipe_parser(), ["--config", str(path), *flags]))
        for given in (recipe.corpus.train, recipe.corpus.dev, recipe.corpus.english):
            sources(given)
    corpus_name(recipe.corpus), public(recipe)
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert parse_recipe(path) == recipe, "what was written is read as another recipe"


def plants(case: str, folder: Path) -> None:
    """Faults of the tests' own."""
    if case == "raises":
        raise TypeError("planted")
    if case == "burns":
        end = time.process_time() + 2 * CPU
        while time.process_time() < end:
            pass
    if case == "swallows":
        bytearray(2 * MEMORY << 20)
    if case == "dies":
        os.abort()
    if case == "babbles":
        raise Refused("x" * 2 * SENTENCE)
    if case == "is refused":
        raise Refused("planted")


# One case.

_size = [0]


def yield_size(size: int) -> None:
    """The case's own size in bytes, beside which it may take memory."""
    _size[0] = size


def status(name: str) -> float:
    """A line of /proc/self/status in MB; 0 where there is none."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        return next((int(line.split()[1]) / 1e3 for line in file if line.startswith(name)), 0.0)
    return 0.0


def tried(kind: str, case: Any, folder: Path) -> dict[str, Any]:
    """The outcome of a case."""
    yield_size(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this case
    before, began, refused, fault = status("VmRSS"), time.process_time(), "", ""
    try:
        with torch.inference_mode():
            globals()[kind](case, folder)
    except Refused as said:
        refused = str(said) or "(nothing)"
        said_alone = refused.replace(str(folder), "")
        if len(said_alone) > SENTENCE or "\n" in refused or "Traceback" in refused:
            fault = f"{len(said_alone)} characters, no sentence: {refused[:200]}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
    cpu, memory = time.process_time() - began, max(0.0, status("VmHWM") - before)
    if cpu > CPU:
        fault = fault or f"{cpu:.2f} s of CPU"
    if memory > MEMORY + _size[0] / 1e6:
        fault = fault or f"{memory:.0f} MB of memory"
    return {"refused": refused, "fault": fault, "cpu": cpu, "memory": memory}


def main(folder: Path, comfyui: str) -> None:
    """Answer each job. What libraries print goes to stderr."""
    sys.path.insert(0, comfyui)  # only now: it has a package `tests` of its own
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs = [json.loads(line) for line in sys.stdin]
    kinds = dict.fromkeys(kind for kind, _, _ in jobs if kind != "plants")
    if {*kinds} & {"files", "prompts", "requests"}:
        sys.argv = [*sys.argv[:1], "--cpu", "--fp32-text-enc", "--base-directory", str(folder)]
        sys.argv += ["--database-url", "sqlite:///:memory:"]
        import comfy.options

        importlib.import_module("utils.install_util")  # before `nodes` puts a folder with another `utils` in front
        comfy.options.enable_args_parsing()
    for kind in kinds:
        WARM[kind](folder)
    if sys.platform == "linux":
        room = int(status("VmSize") * 1e3) * 1000 + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    print("ready", file=out, flush=True)
    for kind, number, case in jobs:
        print(json.dumps([kind, number]), file=out, flush=True)
        print(json.dumps(tried(kind, case, folder)), file=out, flush=True)


def good(kind: str, *cases: Any) -> Any:
    def warm(folder: Path) -> None:
        for case in cases:
            globals()[kind](case, folder)

    return warm


BODY = {"file": "encoder.safetensors", "text": "cat", "bilingual": True}
# Good inputs before the first case, for imports and caches.
WARM = {
    "files": good("files", *({"base": base, "steps": []} for base in SHAPES)),
    "prompts": good("prompts", "\u732b, red (cat:1.2)"),
    "requests": good(
        "requests", {"method": "POST", "headers": [["Content-Type", "application/json"]], "body": BODY, "steps": []}
    ),
    "corpora": good(
        "corpora",
        *(
            {"base": base, "file": 0, "inside": False, "steps": [], "source": {}}
            for base in ("TSV", "Parquet", "JSON lines", "saved dataset")
        ),
    ),
    "recipes": good(
        "recipes",
        *(
            {"base": f"recipes/{name}.yaml", "set": {}, "steps": [], "flags": []}
            for name in ("tiny", "sweeps/ablations")
        ),
    ),
}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
