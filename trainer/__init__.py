"""Aligns a Chinese text encoder with the text encoder of Stable Diffusion 1.5: `python -m trainer STAGE --help`."""
