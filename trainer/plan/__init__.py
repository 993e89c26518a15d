"""What a run will take, said before it begins: downloads, disk, memory, minutes. It hands on the text and
the seconds of each stage."""

from .stage import Plan, made

__all__ = ["Plan", "made"]
