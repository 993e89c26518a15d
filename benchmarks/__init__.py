"""What the trainer and the nodes cost, each beside the libraries alone: `python -m benchmarks.NAME --help`.

`gpu` tries a card; `train_step` and `nodes` compare. Run from the repository's root, on an idle machine.
"""
