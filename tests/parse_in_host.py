"""ComfyUI's own reading of prompt brackets, for a JSON list of prompts: prints [[[text, weight], ...], ...] as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(prompts: list[str]) -> None:
    """Texts and weights, the latter as Python writes them, so that nan equals nan."""
    sys.argv = [*sys.argv[:1], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    read = [token_weights(escape_important(text), 1.0) for text in prompts]
    print(json.dumps([[[unescape_important(part), repr(weight)] for part, weight in spans] for spans in read]))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
