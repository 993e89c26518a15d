"""Parallel captions: read from files or the hub, cleaned, deduplicated and split, with every rejected row listed."""
