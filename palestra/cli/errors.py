"""What the command line says when something is wrong, and how it names the nearest choice."""

from __future__ import annotations

from collections.abc import Iterable


class UsageError(ValueError):
    """The command was asked for something that does not exist or does not fit: exit code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `choices`, or `""` when none is close."""
    from difflib import get_close_matches

    match = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
