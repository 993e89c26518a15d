"""python -m trainer STAGE: the command line.

python -m trainer run [--plan]
python -m trainer run --config recipes/recommended.yaml --run DIR --student.model S --teacher.model T \
    --corpus.train A.tsv --corpus.dev B.tsv
python -m trainer sweep --config recipes/recommended.yaml --run DIR ... --sweep.grid GRID.yaml
python -m trainer evaluate --artifact DIR/encoder.safetensors --teacher.model T --corpus C.tsv --report R.json
python -m trainer compare-reports DIR DIR/report.json ... --out COMPARED.md
python -m trainer translate --translate.source CAPTIONS.tsv --translate.out PAIRS.tsv
python -m trainer convert --source TAIYI --out taiyi.safetensors
python -m trainer compare --checkpoint SD15 --encoders DIR/encoder.safetensors --seeds 1,2,3 --out DIR
python -m trainer publish --run DIR --repo OWNER/NAME
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds: no traceback

import sys

from .command import parser


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; returns the exit code. The stages are imported once the arguments are known to be right."""
    root = parser()
    values = root.parse_args(arguments)
    from .perform import perform

    return perform(root, values)


if __name__ == "__main__":
    sys.exit(main())
