"""The processes of one session, where programs may make some: counted, found, made to rest."""

# Paths here are plain strings: the proc file system is read often.
# ruff: noqa: PTH110, PTH123, PTH208

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from . import kernel

LOOK_S = 0.005  # between two looks at processes that shall stand still
_LOOKS = 100  # before they count as ones that will not
_TICK = os.sysconf("SC_CLK_TCK")


def are_counted() -> bool:
    """Whether a limit on tasks holds in a user namespace of its own: an attempt, in a child."""
    pid = os.fork()
    if pid == 0:
        verdict = 1
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            verdict = 0
        finally:
            os._exit(verdict)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def are_listed() -> bool:
    """Whether the kernel lists the children of a process."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def below(pid: int) -> Iterator[int]:
    """The children of a process, theirs, and so on."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
            for child in file.read().split():
                yield int(child)
                yield from below(int(child))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all below it, with those that were waited for.

    Raises:
        OSError: the process itself is gone.
    """
    seconds = kernel.cpu_seconds(pid)
    found, *others = (_stat(one) for one in (pid, *below(pid)))
    waited_for = found[13:15]
    ticks = [int(word) for words in others for word in words[11:15]]
    return seconds + sum([*map(int, waited_for), *ticks]) / _TICK


@dataclass
class _Resting:
    """One session whose processes shall stand still."""

    pid: int
    looks: int = 0
    due: float = field(default_factory=time.monotonic)


class Rest:
    """Stops the processes of sessions between calls; `restless` gets the pid of one that fails.

    The session's first process is stopped by the host.
    """

    def __init__(self, restless: Callable[[int], None]) -> None:
        self._restless = restless
        self._resting: dict[int, _Resting] = {}

    def begin(self, pid: int) -> None:
        """From now on the session's processes shall stand still."""
        self._resting[pid] = _Resting(pid)

    def end(self, pid: int) -> None:
        """They may go on."""
        self._resting.pop(pid, None)
        _signal(below(pid), signal.SIGCONT)

    def forget(self, pid: int) -> None:
        """The session is dead."""
        self._resting.pop(pid, None)

    def check(self) -> float:
        """Look again; seconds until this should be called again."""
        for resting in [one for one in self._resting.values() if one.due <= time.monotonic()]:
            self._look(resting)
        soonest = min((one.due for one in self._resting.values()), default=float("inf"))
        return max(0.0, soonest - time.monotonic())

    def _look(self, resting: _Resting) -> None:
        # Only what is seen stopped all at once stays so: a running one can wake the others.
        awake = [pid for pid in below(resting.pid) if _stat(pid)[0] not in ("T", "Z", "X")]
        if not awake:
            del self._resting[resting.pid]
            return
        _signal(awake, signal.SIGSTOP)
        resting.looks += 1
        resting.due = time.monotonic() + LOOK_S
        if resting.looks > _LOOKS:
            del self._resting[resting.pid]
            self._restless(resting.pid)


def _signal(pids: Iterator[int] | list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    """The fields of a stat file from the state on; those of a dead process where it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return ["X", *["0"] * 20]
