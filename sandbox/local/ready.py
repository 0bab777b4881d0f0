"""Sessions made before anybody asks: forked, locked in, and waiting in a system call.

The last thing a spare does by itself is a call that its filter suspends (`unshare`, of nothing).
The server leaves it unanswered until a session with the same limits is opened, puts
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
    """A process that is no session yet.

    `asked` is the call it waits in, once it does; `promised` the command, with its handles, of
    a session that waits for it.
    """

    pid: int
    limits: dict[str, Any]
    family: Family | None = None
    asked: Asked | None = None
    promised: tuple[dict[str, Any], list[int]] | None = None
    retired: bool = False

    @property
    def free(self) -> bool:
        return self.promised is None and not self.retired

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

    def find(self, limits: dict[str, Any]) -> Spare | None:
        """One with these limits for the caller to use or to promise, rather one that waits."""
        self._limits = limits
        free = [spare for spare in self.by_pid.values() if spare.free]
        same = [spare for spare in free if spare.limits == limits]
        if same:
            return next((spare for spare in same if spare.asked is not None), same[0])
        if free and len(free) >= self._wanted:  # all for other limits: the oldest makes room
            self.retire(free[0])
        return None

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
        return sum(spare.free for spare in self.by_pid.values()) < self._wanted

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

    def reports(self, asked: Asked) -> Spare | None:
        """Take note of a suspended call; the spare whose it is, if it is one's."""
        spare = self.by_pid.get(asked.tid)
        if spare is not None and asked.name == "unshare":
            spare.asked = asked
        elif spare is not None:
            asked.refuse()
        return spare

    def buried(self, pid: int) -> Spare | None:
        """A process is dead; the spare it was, if it was one."""
        spare = self.by_pid.pop(pid, None)
        if spare is not None and spare.asked is None and not spare.retired:
            self._limits = None  # it could not be locked in: the next open will say why
        return spare
