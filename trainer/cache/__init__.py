"""Outputs of the frozen encoders for each caption, computed once and stored in shards, with sums for the ridge."""
