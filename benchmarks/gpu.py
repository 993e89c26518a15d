"""The trainer on a GPU that nobody has tried: python -m benchmarks.gpu [--sdxl] [--batch 16] [--device auto|cpu|cuda]

Measures in about five minutes the precisions, the speed of the cache and of a step, the plan beside the run, memory, a
resumed run, the loss beside the CPU's, and two processes if there are two GPUs. Encoders have full shape, 12 x 768,
with random weights; nothing is downloaded. Ends in a table to paste into an issue. On a CPU the encoders are tiny.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from safetensors.torch import load_file
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils.logging import disable_progress_bar

from benchmarks.plain_loop import LAYERS
from benchmarks.rounds import ROOT
from benchmarks.train_step import ours, plain, race_steps, run_step, write_inputs
from trainer.base.device import default_device, gpu_problem, matmul_precision, processes, use_device
from trainer.base.errors import one_line
from trainer.base.recipe import Recipe, TrainSettings
from trainer.base.settings import parse_recipe, to_yaml
from trainer.cache import builder
from trainer.corpus.pairs import read_pairs
from trainer.models.freezing import frozen_depth
from trainer.models.student import student_from_recipe
from trainer.models.teacher import teacher_from_recipe
from trainer.pipeline import STAGES, run_stage
from trainer.plan import plan
from trainer.progress import Cancelled, Progress
from trainer.report.tables import markdown_table
from trainer.training import checkpoint, metrics
from trainer.training.setup import precision, unchanged_process

STEPS, STOP = 200, 120
PAPER_STEPS = 20_000
DTYPES: dict[Any, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DRIVER = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def machine(device: torch.device) -> dict[str, str]:
    """The device, its driver, torch's build, and the precision that the trainer chooses."""
    name = f"CPU, {torch.get_num_threads()} threads of {psutil.cpu_count()}"
    driver = subprocess.run(DRIVER, capture_output=True, text=True).stdout if shutil.which(DRIVER[0]) else ""
    if device.type == "cuda":
        card, free = torch.cuda.get_device_properties(device), torch.cuda.mem_get_info(device)[0] / 1e9
        memory = f"{free:.1f} of {card.total_memory / 1e9:.1f} GB free"
        name = f"{torch.cuda.device_count()} x {card.name}, sm_{card.major}{card.minor}, {memory}; {name}"
    return {
        "device": name,
        "driver": driver.partition("\n")[0] or torch.version.hip or "none",
        "torch": f"{torch.__version__}, {sys.platform}, for {' '.join(torch.cuda.get_arch_list()) or 'the CPU'}",
        "problem": gpu_problem() or "none",
        "precision": precision(TrainSettings()),
    }


def seconds(work: Callable[[], object], calls: int = 5) -> float:
    """Seconds of a call after warming up, until the GPU is done."""
    return Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads()).timeit(calls).mean


def flops(work: Callable[[], object]) -> int:
    """Floating point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def speed(operations: float, duration: float, device: torch.device, dtype: torch.dtype) -> str:
    """Arithmetic speed, beside that of one large matrix product, which uses TF32 where training does."""
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    with matmul_precision("high"):
        peak = 2 * size**3 / seconds(lambda: matrix @ matrix)
    rate = operations / duration
    return f"{rate / 1e12:.2f} TFLOP/s, {rate / peak:.0%} of a matrix product's {peak / 1e12:.1f}"


def stages_beside_plan(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """Run all stages. Seconds of each, and its bytes of memory: the peak on a GPU, the process's on a CPU."""
    planned, gpu = plan(recipe), device.type == "cuda"
    (memory_line,) = (line for line in planned.text.splitlines() if line.startswith("plan: memory"))
    facts = {"memory by the plan": memory_line.removeprefix("plan: memory").strip()}
    for stage in STAGES:
        clear_device_cache(garbage_collection=True)
        if gpu:
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        run_stage(stage, recipe)
        duration = time.perf_counter() - began
        memory = torch.cuda.max_memory_reserved(device) if gpu else psutil.Process().memory_info().rss
        facts[stage] = f"{duration:.0f} s, by the plan {planned.seconds[stage]:.0f} s; {memory / 1e9:.2f} GB"
    return facts


def cache_speed(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> str:
    """Captions a second of the cache stage with the teacher in this precision, as in a corpus of 100,000."""
    pairs = read_pairs(recipe.folder / "corpus" / "train.tsv")[:256]
    student, teacher = student_from_recipe(recipe, device), teacher_from_recipe(recipe, device)
    depth, pads = frozen_depth(recipe.train, student.depth), recipe.train.pad_positions
    cache = builder.CacheBuilder(teacher, student, pairs, depth, pads, len(pairs), recipe.cache.batch, 100_000)
    chosen, autocast = builder.teacher_precision, torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    try:  # in place of the one precision that the stage chooses
        with patch.object(builder, chosen.__name__, lambda device: autocast), matmul_precision("high"):
            operations, duration = flops(lambda: cache.shard(0)), seconds(lambda: cache.shard(0), 1)
        arithmetic = speed(operations, duration, device, dtype)
    except (RuntimeError, ValueError) as error:
        return f"does not work: {one_line(error)}"
    return f"{len(pairs) / duration:.0f} captions a second; {arithmetic}"


def step_speed(recipe: Recipe, device: torch.device, compare: bool) -> str:
    """A step in the recipe's precision, beside the plain loop's if `compare`; or why the precision does not work."""
    try:
        with unchanged_process(), matmul_precision("high"):
            steps, beside = ours(replace(recipe, run=f"{recipe.run}-{recipe.train.precision}")), ""
            operations = flops(lambda: run_step(steps, device))
            if compare:
                measured = race_steps(plain(recipe, device), steps, device, quick=False)
                duration, ratio = measured.ours, statistics.median(measured.ratios)
                beside = f", {ratio:.2f} of the plain loop's {1000 * measured.plain:.1f}"
            else:
                duration = seconds(lambda: run_step(steps, device), 20)
            arithmetic = speed(operations, duration, device, DTYPES[recipe.train.precision])
    except (RuntimeError, ValueError) as error:
        return f"does not work: {one_line(error)}"
    return f"{1000 * duration:.1f} ms{beside}; {arithmetic}; {PAPER_STEPS * duration / 3600:.1f} h for {PAPER_STEPS:,}"


def final_loss(recipe: Recipe) -> float:
    """Mean loss of the last steps."""
    return metrics.read(recipe.folder / metrics.FILE)[-1]["loss"]


def resume(recipe: Recipe) -> str:
    """Train again, stopped and resumed, and compare the final weights with those of the run."""
    again = replace(recipe, run=f"{recipe.run}-resumed")

    def stop(event: Progress) -> None:
        if event.done == STOP:
            raise Cancelled

    with suppress(Cancelled):
        run_stage("train", again, stop)
    run_stage("train", again)
    first, second = (load_file(checkpoint.final(one.folder / "checkpoints")) for one in (recipe, again))
    difference = max(float((first[name] - second[name]).abs().max()) for name in first)
    return f"largest difference of a weight after a stop at {STOP}: {difference:.1g}; loss {final_loss(again):.4f}"


def loss_beside_cpu(recipe: Recipe) -> str:
    """The loss of the run beside that of a CPU in fp32."""
    on_cpu = replace(recipe, run=f"{recipe.run}-cpu", device="cpu", train=replace(recipe.train, precision="no"))
    run_stage("train", on_cpu)
    return f"{final_loss(recipe):.4f}, on the CPU in fp32 {final_loss(on_cpu):.4f}"


def launch_two(recipe: Recipe, file: Path) -> str:
    """A step of the same batch divided between two processes, or the last line of their error."""
    file.write_text(to_yaml(replace(recipe, run=f"{recipe.run}-two")), encoding="utf-8")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "benchmarks.gpu")
    command = [sys.executable, *launcher, "--process-of", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    return (done.stdout if done.returncode == 0 else done.stderr).strip().rpartition("\n")[2]


def time_steps(recipe: Recipe) -> None:
    """One of two processes: print the time of a step."""
    use_device(recipe.device)
    with matmul_precision("high"):
        steps, device = ours(recipe), torch.device(default_device())
        duration = seconds(lambda: run_step(steps, device), 20)
    if processes().is_main_process:
        print(f"{1000 * duration:.0f} ms a step")


def measure(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, str]]:
    """All figures by name, in the order in which they are measured."""
    disable_progress_bar()
    use_device(given.device)
    device, began = torch.device(default_device()), time.perf_counter()
    small = device.type == "cpu"
    yield machine(device)
    train = TrainSettings(layers=LAYERS, batch=given.batch, steps=STEPS, warmup=20, save_every=50, dev_every=None)
    recipe = write_inputs(folder, max(given.captions, given.batch), train, small, given.sdxl)
    # In fp16, random weights can differ by more than export allows.
    recipe.device, recipe.export.dtype = given.device, "float32"
    yield stages_beside_plan(recipe, device)
    for dtype in DTYPES.values():
        yield {f"cache, {dtype}": cache_speed(recipe, device, dtype)}
    for name, dtype in DTYPES.items():
        clear_device_cache(garbage_collection=True)
        endless = replace(train, precision=name, steps=10**6)
        if not given.sdxl:  # as the plain loop, which SDXL has none of
            endless.start, endless.contrast = "student", 0.0
        text = step_speed(replace(recipe, train=endless), device, compare=not given.sdxl)
        yield {f"step of {given.batch}, {dtype}": text}
    yield {"resumed": resume(recipe)}
    if small or torch.cuda.device_count() > 1:
        yield {"two processes": launch_two(recipe, folder / "two.yaml")}
    yield {f"loss after {STEPS} steps": loss_beside_cpu(recipe)}
    yield {"in all": f"{time.perf_counter() - began:.0f} s"}


def main() -> None:
    """Print each figure when it is measured, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdxl", action="store_true", help="SDXL's two text encoders")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--captions", type=int, default=512, help="at least a batch of them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--process-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process_of:
        time_steps(parse_recipe(given.process_of))
        return
    table: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for facts in measure(given, Path(folder)):
            print(*(f"{name}: {text}" for name, text in facts.items()), sep="\n", flush=True)
            table += facts.items()
    print("\n" + markdown_table(table, ["benchmarks.gpu", "SDXL" if given.sdxl else "SD1.5"]))


if __name__ == "__main__":
    main()
