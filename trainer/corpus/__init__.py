"""Parallel captions: rows from files, folders, bitexts and the hub become clean, deduplicated, split pairs, with every
rejected row written down. It hands on `Pair`, and the pairs of RUN/corpus."""

from .lines import CorpusError, Row, lines
from .pairs import Pair
from .rows import files, is_hub, read
from .sample import Sample, sampled
from .stage import read_pairs, run, scorable, sha256, write_pairs

__all__ = [
    "CorpusError",
    "Pair",
    "Row",
    "Sample",
    "files",
    "is_hub",
    "lines",
    "read",
    "read_pairs",
    "run",
    "sampled",
    "scorable",
    "sha256",
    "write_pairs",
]
