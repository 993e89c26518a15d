"""Parallel captions: rows from files, folders, bitexts and the hub become clean, deduplicated, split pairs, with every
rejected row written down. It hands on `Pair`, and the pairs of RUN/corpus."""
