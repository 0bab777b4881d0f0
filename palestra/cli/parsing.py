"""Flags from a plain dataclass: its fields are the options, their docstrings the help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def parse(
    cls: type[T],
    argv: Sequence[str],
    *,
    command: str,
    examples: Sequence[str] = (),
    default: T | None = None,
) -> T:
    """Parse `argv` into a `cls`; `default` holds the values of flags that are not given.

    `--help` prints the options and then the examples. Wrong flags end the process with
    code 2 and a message that names the nearest one.
    """
    import tyro

    try:
        return tyro.cli(
            cls,
            prog=f"palestra {command}",
            args=list(argv),
            default=tyro.MISSING_NONPROP if default is None else default,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:
        if not end.code and examples:
            print("examples:")
            print("\n".join(f"  palestra {command} {line}".rstrip() for line in examples))
        sys.stdout.flush()
        raise
