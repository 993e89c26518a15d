"""python -m trainer STAGE: the table of stages.

python -m trainer run --config recipes/recommended.yaml --run DIR --student.model S --teacher.model T \
    --corpus.train A.tsv --corpus.dev B.tsv
python -m trainer evaluate --artifact DIR/encoder.safetensors --teacher.model T --corpus C.tsv --report R.json
python -m trainer translate --translate.source CAPTIONS.tsv --translate.out PAIRS.tsv
python -m trainer convert --source TAIYI --out taiyi.safetensors
python -m trainer publish --run DIR --repo OWNER/NAME
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhclip.artifact import ArtifactError

from . import cache, convert, corpus, evaluate, export, publish, train, translate
from .export import ExportError
from .publish import PublishError
from .recipe import EvaluateSettings, Recipe, SettingsError, to_yaml, write_text
from .report import to_markdown
from .rows import CorpusError
from .settings import OWN, parse_recipe, parser, to_recipe
from .train import DivergedError
from .weights import ModelError

STAGES: dict[str, Callable[[Recipe], object]] = {
    "corpus": corpus.run,
    "cache": cache.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "export": export.run,
}
EXPECTED = (ArtifactError, CorpusError, DivergedError, ExportError, ModelError, PublishError, SettingsError)


def main(arguments: list[str] | None = None) -> int:
    """Run one stage. Returns the exit code: 0, or 1 after one line that says what is wrong."""
    root = parser()
    values = root.parse_args(arguments)
    stage = values.subcommand
    try:
        if stage in OWN:
            OTHERS[stage](OWN[stage][0](**vars(root.instantiate(values)[stage])))
        else:
            _run(stage, to_recipe(values[stage]))
    except EXPECTED as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(stage: str, recipe: Recipe) -> None:
    resolved = recipe.folder / "recipe.yaml"
    if not resolved.is_file():
        write_text(resolved, to_yaml(recipe))
    for name in STAGES if stage == "run" else (stage,):
        STAGES[name](recipe)
    # Written again only now: settings that a stage refused must not stand beside what the old ones made.
    write_text(resolved, to_yaml(recipe))
    if stage == "run":
        print((recipe.folder / "report.md").read_text(encoding="utf-8"))


def _evaluate(settings: EvaluateSettings) -> None:
    if settings.artifact:
        found = evaluate.of_artifact(settings)
    elif settings.run:
        found = evaluate.run(parse_recipe(Path(settings.run) / "recipe.yaml"))
    else:
        raise SettingsError("give --artifact with --teacher.model and --corpus, or --run")
    if settings.report:
        evaluate.write_report(Path(settings.report), found)
    print(to_markdown(found.report))


OTHERS: dict[str, Callable[[Any], object]] = {
    "evaluate": _evaluate,
    "translate": lambda settings: translate.run(settings.translate),
    "convert": convert.run,
    "publish": publish.run,
}

if __name__ == "__main__":
    sys.exit(main())
