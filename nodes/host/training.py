"""Trains an encoder in ComfyUI's process: the one module that imports the trainer, when a training starts."""

from __future__ import annotations

import gc
import importlib
import json
import pkgutil
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
import torch

from ...zhclip.io import ArtifactError, atomic_write
from ..common import file_stamp
from ..messages import message
from .progress import Monitor

PACK = __name__.rpartition(".nodes.host.")[0]  # the name that ComfyUI gave this pack
STUDENT = "OFA-Sys/chinese-clip-vit-base-patch16"
# thoroughness -> pairs of the starter corpus, and passes over all pairs
THOROUGHNESS = {"quick": (3000, 2.0), "recommended": (20_000, 6.0), "long": (60_000, 6.0)}
WORDS = {  # of the trainer's messages -> for a user of the node
    "a mirror (HF_ENDPOINT)": "hf-mirror.com in chinese_clip",
    ", move the cache (--cache.dir FOLDER), or use fewer captions (--corpus.limit N)": ", or choose quick",
    "give the same command again": "press Run again",
    "--teacher.model": "checkpoint",
    "--student.model": "chinese_clip",
    "--corpus.train": "pairs",
    "--run": "name",
}


@dataclass(frozen=True)
class Job:
    """A training as the node's inputs describe it.

    folder: of the run; target: the encoder's file; checkpoint: the teacher's file; sources: the pairs, `starter` or
    files; student: STUDENT, which the hub at `endpoint` has, or a folder or file; settings: what another training of
    the same name must have in common; stamps: times and sizes of the files that it reads.
    """

    folder: Path
    target: Path
    checkpoint: Path
    sources: tuple[str, ...]
    student: str
    endpoint: str | None
    settings: dict[str, Any]
    stamps: dict[str, str]

    def check(self) -> None:
        """Raise ValueError if the name is taken by another training or file."""
        earlier = self._recorded().get("settings")
        if self.target.exists() and earlier is None:
            raise ValueError(message("not_trained_here", path=self.target))
        if earlier is None or not (self.target.exists() or (self.folder / "cache").is_dir()):
            return  # nothing would be lost
        for key, value in self.settings.items():
            if earlier.get(key) != value:
                found = {"setting": key, "earlier": earlier.get(key), "now": value}
                place = {"name": self.target.stem, "folder": self.folder, "path": self.target}
                raise ValueError(message("name_taken", **place, **found))

    def is_finished(self) -> bool:
        """Whether the encoder is there, trained with these settings from these files."""
        wanted = {"settings": self.settings, "stamps": self.stamps}
        return self.target.is_file() and self._recorded() == wanted | {"encoder": file_stamp(str(self.target))}

    def record(self, **encoder: str) -> None:
        """Write the settings into the run's folder. A run of other settings, which `check` let pass, is deleted."""
        if self._recorded().get("settings", self.settings) != self.settings:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "node.json") as file:
            file.write(json.dumps({"settings": self.settings, "stamps": self.stamps, **encoder}).encode())

    def _recorded(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "node.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no such run; a damaged file
            return {}

    def losses(self) -> dict[str, list[float]]:
        """The logged losses as core's Plot Loss Graph reads them, which needs two different ones."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = [row for row in map(json.loads, lines) if "loss" in row]
        losses = [float(row["loss"]) for row in rows]
        return {"loss": losses if len(set(losses)) > 1 else [float(row["constant_loss"]) for row in rows[:1]] + losses}


def train(job: Job, node_id: str | None) -> None:
    """Train the encoder and write it to `job.target`, from where an earlier call with the same settings stopped.

    Raises ValueError with one sentence for what the user can cure, and ComfyUI's own exception for Cancel.
    """
    memory = comfy.model_management
    trainer, progress = trainer_module(""), trainer_module("progress")
    errors, device = (trainer_module(f"base.{name}") for name in ("errors", "device"))
    memory.unload_all_models()
    monitor = Monitor(node_id, progress.Cancelled)
    try:
        job.record()
        with unchanged_process(), monitor.watching():
            trainer.run(recipe(job, student_path(job, monitor)), monitor)
            with (job.folder / "encoder.safetensors").open("rb") as source, atomic_write(job.target) as copy:
                shutil.copyfileobj(source, copy)
        job.record(encoder=file_stamp(str(job.target)))
        monitor.finish(message("trained", file=job.target.name))
    except ModuleNotFoundError as error:
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        raise ValueError(message("needs_package", package=error.name, python=python)) from error
    except progress.Cancelled as error:
        raise memory.InterruptProcessingException() from error
    except (errors.TrainerError, ArtifactError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = message("press_run_again", file=error.filename, reason=error.strerror)
        raise ValueError(message("training_stopped", error=for_node(text))) from error
    except RuntimeError as error:
        if not device.is_out_of_memory(error):
            raise
        raise ValueError(message("small_memory", folder=job.folder)) from error
    except SystemExit as error:  # it would end ComfyUI's worker, and the server would answer on with a dead queue
        raise RuntimeError(message("exit_code", code=error.code)) from error
    finally:
        gc.collect()
        memory.soft_empty_cache()


def for_node(text: str) -> str:
    """A message of the trainer in the node's words."""
    for old, new in WORDS.items():
        text = text.replace(old, new)
    return text


def student_path(job: Job, monitor: Monitor) -> Path:
    """The folder or file of the Chinese encoder, which is downloaded if the hub's cache lacks it."""
    if job.student != STUDENT:
        return Path(job.student)
    download = trainer_module("models.download")
    return download.download_weights(STUDENT, "student.model", monitor, job.endpoint)


def recipe(job: Job, student: Path) -> Any:
    """The trainer's recipe."""
    settings, inputs = trainer_module("base.recipe"), job.settings
    cpu = comfy.model_management.get_torch_device().type != "cuda"
    rows, epochs = THOROUGHNESS[inputs["thoroughness"]]
    steps = inputs["steps"] or round(rows * epochs / settings.TrainSettings.batch)
    paths = [f"starter:{rows}" if path == "starter" else path for path in job.sources]
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
            seed=inputs["training_seed"],
            steps=inputs["steps"] or None,
            epochs=epochs,
            warmup=min(settings.TrainSettings.warmup, steps // 4),
            dev_every=max(100, steps // 6),
            save_every=100,
        ),
        install=None,
    )


def trainer_module(name: str) -> ModuleType:
    """A module of the trainer, under this pack's own name.

    The trainer imports the shared library as `zhclip`: unless there is one, the pack's modules are registered so.
    """
    library = importlib.import_module(f"{PACK}.zhclip")
    if "zhclip" not in sys.modules:
        sys.modules["zhclip"] = library
        for module in pkgutil.iter_modules(library.__path__):
            if module.name != "pipelines":  # imports diffusers
                sys.modules[f"zhclip.{module.name}"] = importlib.import_module(f"{PACK}.zhclip.{module.name}")
    return importlib.import_module(f"{PACK}.trainer.{name}" if name else f"{PACK}.trainer")


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restore what a training changes in ComfyUI's process: torch's random states, warnings and Accelerate's state.

    Accelerate keeps one device and precision a process, which other packs may have chosen.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = (PartialState, AcceleratorState, GradientState)
    shared = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.inference_mode(False):  # which enables gradients
            yield
    finally:
        for state, values in zip(states, shared):
            state._shared_state.clear()
            state._shared_state.update(values)
        if sys.platform == "win32" and torch.cuda.is_initialized():  # trainer/base/device.py lowers it
            torch.cuda.set_per_process_memory_fraction(1.0)
