"""python benchmarks/full_shape.py FOLDER [--steps 20] [--batch 32]

Both strategies of the paper at full shape, with random weights: a 12 x 768 Chinese-CLIP text tower with 21,128 tokens
to CLIP ViT-L/14's 12 x 768 text tower with 49,408, 77 positions, by the trainer's own command line. Prints seconds and
peak memory of each stage; the losses mean nothing.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import encoders  # noqa: E402 - the project is not installed


def main() -> None:
    """Build the two encoders and a corpus, then run the two recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=256)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    student = encoders.student(options.folder / "chinese-clip", 768, layers=12, heads=12, size=21128)
    teacher = encoders.clip_teacher(options.folder / "clip-l", 768, layers=12, size=49408)
    train, dev = encoders.corpora(options.folder, options.rows)
    for strategy in ("unfreeze", "lora"):
        flags = {
            "config": ROOT / "recipes" / f"paper-{strategy}.yaml",
            "run": options.folder / strategy,
            "student.model": student,
            "teacher.model": teacher,
            "corpus.train": train,
            "corpus.dev": dev,
            "cache.dir": options.folder / "cache",
            "train.steps": options.steps,
            "train.batch": options.batch,
        }
        arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
        for stage in ("corpus", "cache", "train", "evaluate", "export"):
            began = time.perf_counter()
            given = ["--run", str(flags["run"])] if stage == "evaluate" else arguments
            subprocess.run([sys.executable, "-m", "trainer", stage, *given], cwd=ROOT, check=True)
            # The largest child so far, in kB on Linux.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            print(
                f"{strategy} {stage}: {time.perf_counter() - began:.0f} s, peak memory so far {peak:.1f} GB", flush=True
            )


if __name__ == "__main__":
    main()
