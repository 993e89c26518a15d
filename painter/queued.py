"""Queue held-out prompts in the real ComfyUI, and say whether its stock nodes paint what the direct sampler does.

python -m painter.queued --encoder FILE [--count 50] [--base runs/queued]

FILE is an artifact that was aligned to the painter's teacher. Each prompt goes through the example workflow by
comfy-cli, in Chinese.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from painter import host, paint, reader, unet
from painter.drawable import Prompt, held_out_prompts
from trainer.encoders import Student
from zhclip.artifact import load


def painted_by_comfyui(comfyui: host.Host, encoder: str, prompts: list[Prompt]) -> NDArray[np.float32]:
    """The prompts' pictures (B, 36, 36, 3), values 0..1, by stock KSampler. RuntimeError as host.paint."""
    paths = [host.paint(comfyui, prompt.zh, encoder) for prompt in tqdm(prompts, desc="ComfyUI")]
    return np.stack([host.picture(path)[:: host.SHOWN, :: host.SHOWN] for path in paths])


def painted_directly(encoder: Path, prompts: list[Prompt]) -> NDArray[np.float32]:
    """The same by paint.py, one prompt at a time as in the queue: the starting noise depends on the batch's size."""
    network, encode = unet.load(), Student.from_artifact(load(encoder)).encode
    return np.concatenate([paint.paint(network, encode([prompt.zh]), encode([""])) for prompt in prompts])


def main(arguments: list[str] | None = None) -> None:
    """The command line of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m painter.queued", description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", type=Path, required=True, help="an artifact aligned to the painter's teacher")
    parser.add_argument("--count", type=int, default=50, help="so many held-out prompts")
    parser.add_argument("--base", type=Path, default=Path("runs/queued"), help="ComfyUI's base directory")
    options = parser.parse_args(arguments)
    prompts = held_out_prompts()[: options.count]
    base = options.base.resolve()
    try:
        host.prepare(base, {"judged": options.encoder})
        with host.running(base) as comfyui:
            queued = painted_by_comfyui(comfyui, "judged", prompts)
        direct = painted_directly(options.encoder, prompts)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"queued: {error}")
    wanted = [prompt.scene for prompt in prompts]
    for name, pictures in (("stock KSampler in ComfyUI", queued), ("painter/paint.py", direct)):
        print(f"{name}: attributes {reader.score(pictures, wanted)['attributes']:.3f} of {len(prompts)} prompts")
    alike = sum(reader.read(a) == reader.read(b) for a, b in zip(queued, direct, strict=True))
    print(f"read alike: {alike} of {len(prompts)}; mean difference of a pixel {np.abs(queued - direct).mean():.4f}")


if __name__ == "__main__":
    main()
