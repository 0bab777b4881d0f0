"""The processes below another, as the kernel tells them at one moment."""

from __future__ import annotations

from pathlib import Path


def below(pid: int) -> list[int]:
    """The descendants of a process; those that end meanwhile are left out, with their own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = [int(child) for child in children.split()]
    return found + [p for child in found for p in below(child)]
