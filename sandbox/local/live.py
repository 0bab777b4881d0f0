"""Sessions as the server sees them, and the CPU clocks that it reads for them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .copies import Family

CORES = os.cpu_count() or 1
LEAST_S = 0.02  # between two readings of all clocks


@dataclass
class Live:
    """One session."""

    sid: int
    pid: int
    socket: socket.socket  # the session's own end: writes reach the host
    cpu_limit: float  # absolute, in seconds of the process' CPU clock
    tasks: int
    reason: str = ""  # why it was killed, once it was
    family: Family | None = None


class Clocks:
    """The CPU clocks of all sessions, read when one of them may have run out and not before."""

    def __init__(self, sessions: dict[int, Live], read: Callable[[int], float]) -> None:
        self._sessions = sessions
        self._read = read  # CPU seconds that a session has used, by its process; OSError: gone
        self._due = float("inf")

    def watch(self, live: Live) -> None:
        """Read the clocks before this session's can run out."""
        self._due = min(self._due, time.monotonic() + max(LEAST_S, self._left(live)))

    def renew(self, live: Live, seconds: float) -> None:
        """From now on `seconds` of CPU, on top of what our own clock says was used."""
        with suppress(OSError):
            live.cpu_limit = self._read(live.pid) + seconds
        self.watch(live)

    def run_out(self) -> list[Live]:
        """Sessions that have used up their seconds."""
        now = time.monotonic()
        if now < self._due:
            return []
        left = [(self._left(live), live) for live in self._sessions.values()]
        soonest = min((seconds for seconds, _ in left if seconds > 0), default=float("inf"))
        self._due = now + max(LEAST_S, soonest)
        return [live for seconds, live in left if seconds <= 0]

    def pause(self) -> float:
        """Seconds in which no other clock can run out."""
        return max(0.0, self._due - time.monotonic())

    def _left(self, live: Live) -> float:
        """Seconds of time in which a session cannot use up its CPU seconds; 0 when it has."""
        if live.reason:
            return float("inf")
        try:
            left = live.cpu_limit - self._read(live.pid)
        except OSError:  # dead
            return float("inf")
        return max(0.0, left) / min(live.tasks, CORES)
