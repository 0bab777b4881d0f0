"""Sessions made before anybody asks: forked, locked in, and waiting in a system call.

The last thing a spare does by itself is a call that its filter suspends (`setsid`, as a copy
does it). The server leaves it unanswered until a session with the same limits is opened, puts
that session's sockets in place, and answers. Until then a spare has no socket, runs nothing
and holds nothing that belongs to anybody. It differs from a process forked on demand only in
when it was forked.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .copies import Family
from .notify import Asked


@dataclass
class Spare:
    """A process that is no session yet. `asked` is the call it waits in, once it does."""

    pid: int
    limits: dict[str, Any]
    family: Family | None = None
    asked: Asked | None = None
    retired: bool = False

    @property
    def tasks(self) -> int:
        return int(self.limits["tasks"])


class Spares:
    """Keeps `wanted` of them for the limits most recently asked for.

    `fork` makes a process for the given limits that will report by its call.
    """

    def __init__(self, wanted: int, fork: Callable[[dict[str, Any]], int]) -> None:
        self._wanted = wanted
        self._fork = fork
        self._limits: dict[str, Any] | None = None
        self.by_pid: dict[int, Spare] = {}

    def take(self, limits: dict[str, Any]) -> Spare | None:
        """A waiting spare with these limits, which from now on is the caller's to use."""
        self._limits = limits
        for spare in self.by_pid.values():
            if spare.asked is not None and not spare.retired and spare.limits == limits:
                del self.by_pid[spare.pid]
                return spare
        self._make_room(limits)
        return None

    def _make_room(self, limits: dict[str, Any]) -> None:
        """When all places hold spares for other limits, the oldest goes."""
        held = [spare for spare in self.by_pid.values() if not spare.retired]
        others = [spare for spare in held if spare.limits != limits]
        if others and len(held) >= self._wanted:
            self.retire(others[0])

    def put_back(self, spare: Spare) -> None:
        """It could not be used, and is ended."""
        self.by_pid[spare.pid] = spare
        self.retire(spare)

    @staticmethod
    def retire(spare: Spare) -> None:
        """End a spare; it stays known until it is dead."""
        spare.retired = True
        with suppress(ProcessLookupError):
            os.kill(spare.pid, signal.SIGKILL)

    def lacking(self) -> bool:
        """Whether there is one to be made."""
        if self._limits is None:
            return False
        return sum(not spare.retired for spare in self.by_pid.values()) < self._wanted

    def make(self) -> None:
        """Make one. Where that fails no other is made until the next session is opened."""
        if self._limits is None:
            return
        try:
            pid = self._fork(self._limits)
        except OSError:
            self._limits = None
            return
        self.by_pid[pid] = Spare(pid, self._limits)

    def waits(self, asked: Asked) -> bool:
        """Take note of a suspended call; whether it is a spare's."""
        spare = self.by_pid.get(asked.tid)
        if spare is None:
            return False
        if asked.name == "setsid":
            spare.asked = asked
        else:
            asked.refuse()
        return True

    def buried(self, pid: int) -> Spare | None:
        """A process is dead; the spare it was, if it was one."""
        spare = self.by_pid.pop(pid, None)
        if spare is not None and spare.asked is None and not spare.retired:
            self._limits = None  # it could not be locked in: the next open will say why
        return spare
