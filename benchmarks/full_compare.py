"""python benchmarks/full_compare.py FOLDER [--size 512] [--steps 2]

`trainer compare` at full shape with random weights: SD1.5's UNet (860 million parameters), VAE and CLIP, and an encoder
of 12 x 768. Makes the files, then runs the command, the default prompts and one seed, and prints its seconds and peak
memory. The pictures and figures mean nothing.
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

from tests import diffusion, small  # noqa: E402 - the project is not installed

UNET_WIDTHS, VAE_WIDTHS = (320, 640, 1280, 1280), (128, 256, 512, 512)


def made(folder: Path) -> list[str]:
    """Write the checkpoint and the encoder, unless they are there; returns the options that name them."""
    checkpoint, encoder = folder / "sd15", folder / "encoder.safetensors"
    if not encoder.exists():
        diffusion.pipeline(checkpoint, 768, 12, UNET_WIDTHS, VAE_WIDTHS)
        small.saved(encoder, width=768, layers=12)
    return ["--checkpoint", str(checkpoint), "--encoders", f"english,{encoder}"]


def main() -> None:
    """Make the files and run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    files = made(options.folder)
    size = ["--width", str(options.size), "--height", str(options.size), "--steps", str(options.steps), "--seeds", "1"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "trainer", "compare", *files, *size, "--out", str(options.folder / "compared")]
    subprocess.run(command, cwd=ROOT, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kB on Linux
    print(f"{time.perf_counter() - began:.0f} s, peak memory {peak:.1f} GB")


if __name__ == "__main__":
    main()
