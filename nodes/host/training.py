"""Trains an encoder in ComfyUI's process: the one module that imports the trainer, when a training starts."""

from __future__ import annotations

import gc
import importlib
import json
import pkgutil
import random
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_management
import comfy.sd1_clip
import numpy as np
import torch

from ...zhclip.io import ArtifactError, atomic_write
from ..common import file_stamp
from .progress import Monitor

PACK = __name__.rpartition(".nodes.host.")[0]  # the name that ComfyUI gave this pack
STUDENT = "OFA-Sys/chinese-clip-vit-base-patch16"
HUB = "huggingface.co"
ENDPOINTS = {HUB: None, "hf-mirror.com": "https://hf-mirror.com"}
# thoroughness -> pairs of the starter corpus, and passes over all pairs
THOROUGHNESS = {"quick": (3000, 2.0), "recommended": (20_000, 8.0), "long": (60_000, 8.0)}
INPUTS = {  # the trainer's flags in its messages -> inputs of the node
    "teacher.model": "checkpoint",
    "student.model": "chinese_clip",
    "corpus.train": "pairs",
    "run": "name",
}
RECORD = "node.json"


@dataclass(frozen=True)
class Job:
    """A training as the node's inputs describe it.

    folder: of the run; target: file of the encoder; checkpoint: the teacher's file; sources: the pairs, `starter` or
    files; chinese_clip: a key of ENDPOINTS or a folder; settings: what another training of the same name must have in
    common; stamps: times and sizes of the files that it reads.
    """

    folder: Path
    target: Path
    checkpoint: Path
    sources: tuple[str, ...]
    chinese_clip: str
    thoroughness: str
    seed: int
    steps: int  # 0: by thoroughness
    settings: dict[str, Any]
    stamps: dict[str, str]

    def refusal(self) -> str | None:
        """Why this name cannot be used, in one sentence; None if it can."""
        earlier = self._record().get("settings")
        if self.target.exists() and earlier is None:
            return f"{self.target} is there already and was not trained here: give another name."
        if earlier is None or not (self.target.exists() or (self.folder / "cache").is_dir()):
            return None  # nothing would be lost
        for key, value in self.settings.items():
            if earlier.get(key) != value:
                return (
                    f"{self.target.stem} is the name of a training with {key} {earlier.get(key)!r}, which is now "
                    f"{value!r}: give another name, or delete {self.folder} and {self.target}."
                )
        return None

    def is_finished(self) -> bool:
        """Whether the encoder is there, trained with these settings from these files."""
        record = self._record()
        wanted = {"settings": self.settings, "stamps": self.stamps}
        return self.target.is_file() and record == wanted | {"encoder": file_stamp(str(self.target))}

    def record(self, **more: str) -> None:
        """Write the settings into the run's folder. A run of other settings, which `refusal` let pass, is deleted."""
        if self._record().get("settings", self.settings) != self.settings:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / RECORD) as file:
            file.write(json.dumps({"settings": self.settings, "stamps": self.stamps, **more}).encode())

    def _record(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no such run; a damaged file
            return {}

    def metrics(self) -> list[dict[str, float]]:
        """What the run logged, by step; a killed run can leave an incomplete last line."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines if line]


def train(job: Job, node_id: str | None) -> None:
    """Train the encoder and write it to `job.target`, from where an earlier call with the same settings stopped.

    Raises ValueError with one sentence for what the user can cure, and ComfyUI's own exception for Cancel.
    """
    memory = comfy.model_management
    trainer, progress = trainer_module(""), trainer_module("progress")
    errors, device = (trainer_module(f"base.{name}") for name in ("errors", "device"))
    memory.unload_all_models()
    monitor = Monitor(node_id, progress.Cancelled)
    job.record()
    try:
        with unchanged_process(), monitor.watching():
            trainer.run(recipe(job, student_folder(job, monitor)), monitor)
            with (job.folder / "encoder.safetensors").open("rb") as source, atomic_write(job.target) as copy:
                shutil.copyfileobj(source, copy)
        job.record(encoder=file_stamp(str(job.target)))
        monitor.finish()
    except progress.Cancelled as error:
        raise memory.InterruptProcessingException() from error
    except (errors.TrainerError, ArtifactError) as error:
        raise ValueError(for_node(str(error))) from error
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except RuntimeError as error:
        if not device.is_out_of_memory(error):
            raise
        raise ValueError(
            "Memory is too small even for one caption at a time: close other programs, and start ComfyUI with --cpu if "
            f"the memory is the graphics card's. What is done is kept in {job.folder}."
        ) from error
    except SystemExit as error:  # it would end ComfyUI's worker, and the server would answer on with a dead queue
        raise RuntimeError(f"The training ended with exit code {error.code}.") from error
    finally:
        gc.collect()
        memory.soft_empty_cache()


def for_node(message: str) -> str:
    """A message of the trainer with the node's inputs in place of the command line's flags."""
    message = message.replace("a mirror (HF_ENDPOINT, or a run's --endpoint)", "hf-mirror.com in chinese_clip")
    for flag, name in INPUTS.items():
        message = re.sub(rf"--{re.escape(flag)}\b(?!\.)", name, message)
    return message


def student_folder(job: Job, monitor: Monitor) -> Path:
    """The folder with Chinese-CLIP's text encoder, which is downloaded if the hub's cache lacks it."""
    if job.chinese_clip not in ENDPOINTS:
        return Path(job.chinese_clip)
    download = trainer_module("models.download")
    return download.download_weights(STUDENT, "student.model", monitor, ENDPOINTS[job.chinese_clip])


def recipe(job: Job, student: Path) -> Any:
    """The trainer's recipe."""
    settings = trainer_module("base.recipe")
    cpu = comfy.model_management.get_torch_device().type != "cuda"
    rows, epochs = THOROUGHNESS[job.thoroughness]
    paths = [f"starter:{rows}" if path == "starter" else path for path in job.sources]
    steps = job.steps or round(rows * epochs / settings.TrainSettings.batch)
    return settings.Recipe(
        run=str(job.folder),
        device="cpu" if cpu else "auto",
        student=settings.StudentSettings(str(student)),
        teacher=settings.TeacherSettings(
            str(job.checkpoint), tokenizer=str(Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer"))
        ),
        corpus=settings.CorpusSettings([settings.Source(path) for path in paths], limit=rows),
        # A cancelled run loses the shard and the steps after the last checkpoint: minutes on a CPU, seconds on a GPU.
        cache=settings.CacheSettings(shard_rows=128 if cpu else 1024, batch=16 if cpu else 64),
        train=settings.TrainSettings(
            seed=job.seed,
            steps=job.steps or None,
            epochs=epochs,
            warmup=min(settings.TrainSettings.warmup, steps // 4),
            dev_every=max(100, steps // 6),
            save_every=100,
        ),
        install=None,
    )


def trainer_module(name: str) -> ModuleType:
    """A module of the trainer, under this pack's own name. Raises ValueError if a package that it needs is missing.

    The trainer imports the shared library as `zhclip`: unless there is one, the pack's modules are registered so.
    """
    library = importlib.import_module(f"{PACK}.zhclip")
    if "zhclip" not in sys.modules:
        sys.modules["zhclip"] = library
        for module in pkgutil.iter_modules(library.__path__):
            if module.name != "pipelines":  # imports diffusers
                sys.modules[f"zhclip.{module.name}"] = importlib.import_module(f"{PACK}.zhclip.{module.name}")
    try:
        return importlib.import_module(f"{PACK}.trainer.{name}" if name else f"{PACK}.trainer")
    except ModuleNotFoundError as error:
        raise ValueError(missing(error)) from error


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a package that is not installed."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"Training needs {error.name}: run {python} -m pip install {error.name}, then start ComfyUI again."


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restore what a training changes in ComfyUI's process: random states, precision, warnings and Accelerate's state.

    Accelerate keeps one device and precision a process, which other packs may have chosen.
    """
    try:
        from accelerate.state import AcceleratorState, GradientState, PartialState
    except ModuleNotFoundError as error:
        raise ValueError(missing(error)) from error
    states = (PartialState, AcceleratorState, GradientState)
    shared = [dict(state._shared_state) for state in states]
    rng, numpy_rng, precision = random.getstate(), np.random.get_state(), torch.get_float32_matmul_precision()
    devices = list(range(torch.cuda.device_count()))
    for state in states:
        state._shared_state.clear()
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        for state, values in zip(states, shared):
            state._shared_state.clear()
            state._shared_state.update(values)
        random.setstate(rng)
        np.random.set_state(numpy_rng)
        torch.set_float32_matmul_precision(precision)
        if sys.platform == "win32" and torch.cuda.is_initialized():  # trainer/base/device.py lowers it
            torch.cuda.set_per_process_memory_fraction(1.0)
