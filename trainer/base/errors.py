"""The class of all errors that a user can cure."""

from __future__ import annotations


class TrainerError(Exception):
    """Base of the trainer's own errors. The message says what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """A library's error message in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]
