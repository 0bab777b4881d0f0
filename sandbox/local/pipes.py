"""How many pipes a session has.

The kernel gives the pipes of one user, as all sessions of a server are, a common number of pages,
and whoever comes after that gets pipes of an eighth of the size. So each session has a few.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import os
import time
from contextlib import suppress

PIPES = 16
UNSEEN_S = 1.0  # from the permission to make a pipe to the pipe, on a machine with much to do


class Pipes:
    """The pipes of the processes of one family."""

    def __init__(self) -> None:
        self._allowed: dict[int, tuple[int, float]] = {}  # by thread: its process, and when

    def free(self, pid: int, tid: int) -> bool:
        """Whether thread `tid` of process `pid` may make one more; from then on it counts."""
        now = time.monotonic()
        self._allowed.pop(tid, None)  # it asks again, so that its last pipe is to be seen
        self._allowed = {t: (p, at) for t, (p, at) in self._allowed.items() if now < at + UNSEEN_S}
        unseen = sum(process == pid for process, _ in self._allowed.values())
        if len(_open_pipes(pid)) + unseen >= PIPES:
            return False
        self._allowed[tid] = pid, now
        return True


def _open_pipes(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # another thread has closed it
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return {path for path in found if path.startswith("pipe:")}
