"""Parallel captions: rows from files, folders, bitexts and the hub become clean, deduplicated, split pairs, with every
rejected row written down. It hands on `Pair`, and the pairs of RUN/corpus."""

from .exchange import exchanged
from .lines import CorpusError, Row, lines
from .pairs import Pair, has_chinese
from .rows import read, source_sha256
from .sample import Sample, sampled
from .stage import read_pairs, run, scorable, sha256, write_pairs
