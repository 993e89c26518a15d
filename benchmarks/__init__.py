"""What the trainer and the nodes cost, each beside the libraries alone: `python -m benchmarks.NAME --help`.

Run from the repository's root, on a machine that does nothing else. `--quick`, where there is one, shows only that it
runs. `rounds` times; `texts`, `encoders` and `host` make captions, encoders of random weights, and ComfyUI's side.
"""
