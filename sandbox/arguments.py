"""What a session is asked to do, checked before anything is done."""

from __future__ import annotations


def clock(wall_s: float) -> float:
    """A call's wall clock, in seconds.

    Raises:
        ValueError: it is not positive and finite.
    """
    if not 0 < wall_s < float("inf"):
        raise ValueError(f"wall_s must be positive and finite seconds, got {wall_s}")
    return wall_s


def standard_input(stdin: str | bytes, most: int) -> bytes:
    """A call's standard input as bytes.

    Raises:
        ValueError: they are more than `most`.
    """
    if isinstance(stdin, str):
        stdin = stdin.encode("utf-8", "surrogateescape")
    if len(stdin) > most:
        raise ValueError(f"stdin has {len(stdin)} bytes; at most {most} are taken")
    return stdin
