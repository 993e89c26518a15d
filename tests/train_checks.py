"""Compares the state of ComfyUI's process before and after a training; started by host.in_host."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from in_host import pack_module  # type: ignore[import-not-found]  # ComfyUI has a package `tests` of its own

# Of tests.encoders.training_inputs.
TEACHER, STUDENT, PAIRS = "teacher.safetensors", "text_encoders/tiny-chinese", "mine.tsv"
CLASSES = ("Student", "Teacher", "Bert", "CLIPTextModel", "AdamW", "Training", "Accelerator", "Cache")


def state() -> dict[str, Any]:
    """What other nodes and packs share with a training, in a form that can be compared."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    loggers = logging.root.manager.loggerDict.items()
    return {
        "python": random.getstate(),
        "numpy": hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),
        "torch": torch.get_rng_state().tolist(),
        "precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "dtype": str(torch.get_default_dtype()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "loggers": {n: (log.level, len(log.handlers)) for n, log in loggers if isinstance(log, logging.Logger)},
        "root": (logging.root.level, len(logging.root.handlers)),
        "warnings": [str(entry) for entry in warnings.filters],
        "accelerate": [repr(dict(kind._shared_state)) for kind in (PartialState, AcceleratorState, GradientState)],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "hooks": len(torch.nn.modules.module._global_forward_pre_hooks),
        "generic": sorted({"trainer", "nodes", "zhclip"} & set(sys.modules)),
    }


def host_state(base: str) -> dict[str, Any]:
    """Train twice in this process, the second time between two looks at its state, and in three ways that fail."""
    import folder_paths

    folder_paths.add_model_folder_path("checkpoints", f"{base}/models/checkpoints", True)
    folder_paths.add_model_folder_path("text_encoders", f"{base}/models/text_encoders", True)
    folder_paths.set_input_directory(f"{base}/input")
    folder_paths.set_user_directory(f"{base}/user")
    node, training = pack_module("nodes.train"), pack_module("nodes.host.training")

    def job(name: str) -> Any:
        given = {"checkpoint": TEACHER, "name": name, "pairs": PAIRS, "thoroughness": "quick", "chinese_clip": STUDENT}
        return node.job_of(given | {"steps": 12})

    with torch.inference_mode():
        training.train(job("one"), None)  # imports the trainer and its libraries
        from accelerate.state import PartialState

        PartialState._shared_state["another_pack"] = True
        before = state()
        training.train(job("two"), None)
        after = state()
    alive = [type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in CLASSES]
    return {
        "trained": Path(base, "models", "text_encoders", "two.safetensors").is_file(),
        "changed": {
            key: (str(before[key])[:500], str(after[key])[:500]) for key in before if before[key] != after[key]
        },
        "alive": alive,
        "exits": exits(training, job("three")),
        "missing": missing(training, job("four")),
    }


def exits(training: Any, job: Any) -> str:
    """The error of a training in which something ends the process."""

    def end(*_: Any) -> None:
        raise SystemExit(3)

    recipe = training.recipe
    training.recipe = end
    try:
        training.train(job, None)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        training.recipe = recipe
    return ""


def missing(training: Any, job: Any) -> str:
    """The error of a training without Accelerate."""
    names = [name for name in sys.modules if name.partition(".")[0] == "accelerate"]
    hidden = {name: sys.modules.pop(name) for name in names}
    sys.modules["accelerate"] = None  # type: ignore[assignment]
    try:
        training.train(job, None)
    except ValueError as error:
        return str(error)
    finally:
        sys.modules.update(hidden)
    return ""
