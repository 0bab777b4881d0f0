"""Copying a live session: how a process that may not fork is forked all the same.

The session's filter suspends every fork until the server has decided. The server says yes
only while the host has asked for a copy, and follows it step by step:

1. the session's one thread forks the copy as a sibling of its own (CLONE_PARENT), so that the
   zygote learns how it ends and it outlives the original;
2. where that cannot be (other threads may hold locks that only the C library's fork sets right)
   its main thread forks a middle process, and that the copy, which becomes the zygote's child
   when the middle one ends;
3. the copy unshares its mount namespace (the one capability it needs for that is permitted
   but not effective while cells run) and reports by `setsid`;
4. the server replaces the copy's tmpfs by a copy of the original's files, reopens the files
   that were open, checks that no capability is effective, puts the copy's own sockets in place
   of the original's, and adopts the process.

A cell that has tampered with the runner can spoil its own copy. Until it is adopted a copy has
no socket of its own, so it cannot speak as a session; it starts no thread, and its CPU seconds
and its time are counted. Every process of the namespace is the server's, a session, or part of
a copy under way: whatever else is found is killed.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH115, PTH116, PTH121, PTH208

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import kernel, privateroot
from .copyfiles import WORK, ShortageError, copy_tree, open_files, refuse_shared_memory
from .notify import Asked
from .pipes import Pipes
from .seccomp import CLONE_FILES, CLONE_THREAD

LOOK_S = 0.25  # between two looks at copies under way
APPEAR_S = 10.0  # from the permission to fork to the new process
COPY_CPU_S = 1.0  # for the two processes of a copy under way; an honest one takes milliseconds
_ROUNDS = 8  # of killing: three would do


@dataclass
class Family:
    """A session and its copies: they share one filter, hence one listener."""

    listener: int
    tasks: int
    members: set[int] = field(default_factory=set)
    mapped_shared: bool = False  # one of them has asked for memory that a copy would share
    pipes: Pipes = field(default_factory=Pipes)


@dataclass
class Copy:
    """A copy under way."""

    message: dict[str, Any]
    parent: int
    family: Family
    handles: list[int]  # what become descriptors 3, 1 and 2
    beside: bool = False  # forked as a sibling of its parent, without a middle process
    middle: int = 0
    pid: int = 0
    started: bool = False  # its first fork was allowed
    waited: float = 0.0  # seconds in which it made no use of a processor, though it could
    appeared_by: float = float("inf")  # of them
    cpu: float = 0.0  # seconds that the parent had used when it was asked to copy itself


class Copies:
    """Decides suspended calls.

    `adopt` is called with each copy that is complete, `give_up` with the parent of one that
    failed, the reason, and whether that is a shortage of the machine's. `known` is the server's
    view of its sessions, by process id.
    """

    def __init__(
        self,
        adopt: Callable[[Copy], None],
        give_up: Callable[[int, str, bool], None],
        known: Container[int],
    ) -> None:
        self._adopt = adopt
        self._give_up = give_up
        self._known = known
        self._by_parent: dict[int, Copy] = {}
        # Sessions of a copy given up: allowed to fork, they may yet do so.
        self._suspects: set[int] = set()
        self._next_look = 0.0
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY)

    def begin(self, copy: Copy) -> None:
        """From now on the parent may fork once."""
        if not self._by_parent and not self._suspects:
            self._next_look = time.monotonic() + LOOK_S
        copy.cpu = _cpu_seconds(copy.parent)
        self._by_parent[copy.parent] = copy

    def abandon(self, parent: int) -> int | None:
        """Forget a copy of `parent` that is not complete, and end its processes.

        Returns our handle on the copy's socket.
        """
        copy = self._by_parent.pop(parent, None)
        if copy is not None and copy.started:
            self._suspects.add(parent)
        if parent in self._suspects:
            self._clear()
        if copy is None:
            return None
        for handle in copy.handles[1:]:
            os.close(handle)
        return copy.handles[0]

    def buried(self, parent: int) -> None:
        """A session is dead, its copy abandoned: it forks no more."""
        self._suspects.discard(parent)

    def lost(self, pid: int, status: int) -> None:
        """A process is dead that was no session: half a copy it may have been."""
        for copy in self.under_way():
            if copy.pid == pid:
                why = f"the copy ended, {status}, before it was complete"
                self._give_up(copy.parent, why, False)

    def check(self) -> float:
        """Give up copies that take too long; seconds until this should be called again."""
        if not self._by_parent and not self._suspects:
            return float("inf")
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            for copy in self.under_way():
                if why := self._overdue(copy):
                    self._give_up(copy.parent, why, False)
            self._clear()
        return max(0.0, self._next_look - now)

    def _overdue(self, copy: Copy) -> str:
        """Why it shall be given up, if it shall.

        On a starved machine an honest copy can take minutes. So time is counted in looks, which
        come late where we are starved, and not while one of its processes waits for a processor
        or has one: what runs is held to its CPU seconds.
        """
        strays = self._strays()
        own = {pid for pid, up in strays.items() if up == copy.parent}
        own |= {pid for pid, up in strays.items() if up in own}
        if sum(map(_cpu_seconds, own)) > COPY_CPU_S:
            return f"the copy used over {COPY_CPU_S:g} s of CPU before it was complete"
        if not any(_status(pid).get("Runs") for pid in (copy.parent, *own)):
            copy.waited += LOOK_S
        # None of them ends by itself, and the first appears soon.
        gone = not own and copy.waited > copy.appeared_by
        if gone or {copy.middle, copy.pid} - {0} - own:
            return "the copy ended before it was complete"
        wait_s, busy = copy.message["wait_s"], _cpu_seconds(copy.parent) - copy.cpu
        return "" if copy.waited + busy <= wait_s else f"the copy took over {wait_s:g} s"

    def _strays(self) -> dict[int, int]:
        """Living processes that are no sessions, with the processes that forked them."""
        found = (int(name) for name in os.listdir("/proc") if name.isdigit())
        own = (1, os.getpid())
        status = {pid: _status(pid) for pid in found if pid not in own and pid not in self._known}
        return {pid: self._origin(pid, s) for pid, s in status.items() if s and not s["Dead"]}

    def _origin(self, pid: int, status: dict[str, int]) -> int:
        """Which process forked `pid`: its parent, but for a copy that is its sibling."""
        if status["PPid"] == 1:
            for copy in self.under_way():
                if copy.beside and copy.pid in (0, pid) and (copy.pid or _same_mounts(pid, copy)):
                    return copy.parent
        return status["PPid"]

    def _clear(self) -> None:
        """Kill what is part of nothing. The dead leave orphans, hence the rounds."""
        for _ in range(_ROUNDS):
            strays = self._strays()
            copied = {copy.parent for copy in self.under_way() if copy.started}
            middles = {pid for pid, up in strays.items() if up in copied}
            doomed = [pid for pid, up in strays.items() if up not in copied | middles]
            if not doomed:
                return
            self._end(*doomed)

    def under_way(self) -> list[Copy]:
        """Copies that are not complete."""
        return list(self._by_parent.values())

    def decide(self, asked: Asked, family: Family) -> None:
        """Answer one suspended call."""
        try:
            self._decide(asked, family)
        except OSError:  # the caller died in the middle of it
            asked.refuse()

    def _decide(self, asked: Asked, family: Family) -> None:
        status = _status(asked.tid)
        if not status or not asked.valid():
            asked.refuse()
        elif asked.name == "mmap":
            family.mapped_shared = True
            asked.allow()
        elif asked.name == "tgkill" and asked.args[0] == status["Tgid"]:
            asked.allow()
        elif asked.name == "clone" and asked.args[0] & CLONE_THREAD:
            # Half a copy gets no thread: its CPU seconds stay below its deadline's.
            free = status["Tgid"] in family.members and status["Threads"] < family.tasks
            if not asked.args[0] & CLONE_FILES:  # its descriptors would not count
                asked.refuse()
            else:
                asked.allow() if free else asked.refuse(errno.EAGAIN)
        elif asked.name == "pipe2":
            free = status["Tgid"] in family.members and family.pipes.free(status["Tgid"], asked.tid)
            asked.allow() if free else asked.refuse(errno.EMFILE)
        elif asked.name == "clone":
            self._fork(asked, status)
        else:
            self._settle(asked, status)

    def _fork(self, asked: Asked, status: dict[str, int]) -> None:
        """Steps 1 and 2."""
        flags = asked.args[0] & ~kernel.CLONE_IDS
        plain, beside = flags == signal.SIGCHLD, flags == signal.SIGCHLD | kernel.CLONE_PARENT
        own, parents = self._by_parent.get(asked.tid), self._by_parent.get(status["PPid"])
        if beside and status["Threads"] > 1:
            asked.refuse(errno.EAGAIN)
        elif (plain or beside) and own is not None and not own.started:
            # Its one thread that may fork is here: what an earlier copy left has come by now.
            if asked.tid in self._suspects:
                self._clear()
                self._suspects.discard(asked.tid)
            own.started, own.beside = True, beside
            own.appeared_by = own.waited + APPEAR_S
            asked.allow()
        elif plain and parents is not None and parents.started and not parents.middle:
            parents.middle = asked.tid
            asked.allow()
        else:
            asked.refuse()

    def _settle(self, asked: Asked, status: dict[str, int]) -> None:
        """Steps 3 and 4."""
        copy = self._asked_by(asked.tid, status)
        if copy is None or copy.pid not in (0, asked.tid):
            asked.refuse()
            return
        copy.pid = asked.tid
        if asked.name == "capset" or (
            asked.name == "unshare" and asked.args[0] == kernel.CLONE_NEWNS
        ):
            asked.allow()
            return
        try:
            if asked.name != "setsid" or status["CapEff"]:
                raise PermissionError(f"the copy tried {asked.name} out of turn")
            self._copy_files(asked, copy)
            _hand_over(asked, copy)
        except (OSError, RecursionError, shutil.Error) as error:
            why, shortage = f"{type(error).__name__}: {error}", isinstance(error, ShortageError)
            self._give_up(copy.parent, why, shortage)
            return
        del self._by_parent[copy.parent]
        # Not awaited: what dies before its parent has is reported when that has, too.
        if copy.middle:
            with suppress(ProcessLookupError):
                os.kill(copy.middle, signal.SIGKILL)
        self._adopt(copy)
        asked.pretend()

    def _asked_by(self, pid: int, status: dict[str, int]) -> Copy | None:
        """The copy under way that a process, which is no session, is."""
        origin = self._origin(pid, status)
        if origin == status["PPid"]:
            return next((c for c in self.under_way() if c.middle == origin > 1), None)
        return self._by_parent[origin]

    def _copy_files(self, asked: Asked, copy: Copy) -> None:
        """Enter the copy's mount namespace, give it its own files, come back."""
        folder = f"/proc/{copy.pid}"
        if os.path.samefile(f"{folder}/ns/mnt", f"/proc/{copy.parent}/ns/mnt"):
            raise PermissionError("the copy has no mount namespace of its own")
        limits = copy.message["limits"]
        if copy.family.mapped_shared:  # may be gone by now; to look takes half a millisecond
            refuse_shared_memory(folder)
        stands = os.stat(f"{folder}/cwd").st_dev
        opened = open_files(folder)
        entered = os.open(f"{folder}/ns/mnt", os.O_RDONLY)
        try:
            kernel.setns(entered, kernel.CLONE_NEWNS)
            old = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if stands == os.fstat(old).st_dev:
                    raise PermissionError("the copy stands in the folder of the original")
                kernel.umount(WORK)
                privateroot.fresh_work_folder(WORK, limits["tmp_bytes"], limits["tmp_inodes"])
                copy_tree(old, WORK)
                opened.reopen(asked)
            finally:
                os.close(old)
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNS)
            os.close(entered)
            opened.close()

    @staticmethod
    def _end(*pids: int) -> None:
        """Kill, and wait until they are dead: only then are their children the server's."""
        for pid in filter(None, pids):
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            dead = select.poll()
            dead.register(handle, select.POLLIN)
            dead.poll(5000)
            os.close(handle)


_STATUS = re.compile(
    rb"State:\t(\w).*\nTgid:\t(\d+)\n.*\nPPid:\t(\d+)\n"
    rb".*\nThreads:\t(\d+)\n.*\nCapEff:\t([0-9a-f]+)\n",
    re.DOTALL,
)


def _status(tid: int) -> dict[str, int]:
    """Fields of a thread's status file; empty when it is gone."""
    try:
        handle = os.open(f"/proc/{tid}/status", os.O_RDONLY)
    except OSError:
        return {}
    try:
        found = _STATUS.search(os.read(handle, 8192))
    except OSError:
        return {}
    finally:
        os.close(handle)
    if found is None:
        return {}
    state, tgid, parent, threads, effective = found.groups()
    return {
        "Tgid": int(tgid),
        "PPid": int(parent),
        "Threads": int(threads),
        "CapEff": int(effective, 16),
        "Dead": state in (b"Z", b"X"),
        "Runs": state in (b"R", b"D"),  # D: the kernel does something for it
    }


def _same_mounts(pid: int, copy: Copy) -> bool:
    """Whether a process is still in the mount namespace of the session that is being copied, in
    which no other session is."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/mnt", f"/proc/{copy.parent}/ns/mnt")
    except OSError:  # one of them is gone
        return False


def _cpu_seconds(pid: int) -> float:
    try:
        return kernel.cpu_seconds(pid)
    except OSError:  # gone
        return 0.0


def _hand_over(asked: Asked, copy: Copy) -> None:
    """Give the copy its own sockets, and take every one of the original's from it.

    A session holds its three sockets and can make no others, but it can duplicate them: a
    copy with the original's would speak in its name after its death. The caller is suspended
    and has one thread, so nothing moves meanwhile.
    """
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        for name in os.listdir(f"/proc/{copy.pid}/fd"):
            if os.readlink(f"/proc/{copy.pid}/fd/{name}").startswith("socket:"):
                asked.inject(null, int(name))
    finally:
        os.close(null)
    for source, target in zip(copy.handles, (3, 1, 2), strict=True):
        asked.inject(source, target)
