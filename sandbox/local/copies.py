"""Copying a live session: how a process that may not fork is forked all the same.

The session's filter suspends every fork until the server has decided. The server says yes
only while the host has asked for a copy, and follows it step by step:

1. the session's main thread forks a middle process;
2. the middle process forks the copy, whose sockets the server puts in place just before, so
   that the copy becomes the server's child when the middle one ends and outlives the original;
3. the copy unshares its mount namespace (the one capability it needs for that is permitted
   but not effective while cells run) and reports by `setsid`;
4. the server replaces the copy's tmpfs by a copy of the original's files, reopens the files
   that were open, checks that no capability is effective, and adopts the process.

A cell that has tampered with the runner can spoil its own copy; it gains a second process
under the same walls at most, and the server ends whatever it has not adopted.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH101, PTH102, PTH115, PTH116, PTH121, PTH123, PTH208

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import stat
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import kernel, privateroot
from .notify import Asked
from .seccomp import CLONE_THREAD

WORK = "/tmp"
_FORK_FLAGS = 0x01200000  # CLONE_CHILD_CLEARTID and SETTID, as the C library's fork has them


@dataclass
class Family:
    """A session and its copies: they share one filter, hence one listener."""

    listener: int
    tasks: int
    members: set[int] = field(default_factory=set)


@dataclass
class Copy:
    """A copy under way."""

    message: dict[str, Any]
    parent: int
    family: Family
    handles: list[int]  # what become descriptors 3, 1 and 2
    middle: int = 0
    pid: int = 0
    started: bool = False


class Copies:
    """Decides suspended calls.

    `adopt` is called with each copy that is complete, `give_up` with the parent of one that
    failed and the reason.
    """

    def __init__(self, adopt: Callable[[Copy], None], give_up: Callable[[int, str], None]) -> None:
        self._adopt = adopt
        self._give_up = give_up
        self._by_parent: dict[int, Copy] = {}
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY)

    def begin(self, copy: Copy) -> None:
        """From now on the parent may fork once."""
        self._by_parent[copy.parent] = copy

    def abandon(self, parent: int, known: Container[int]) -> int | None:
        """Forget a copy of `parent` that is not complete, and end its processes.

        `known` are the server's sessions. Returns our handle on the copy's socket.
        """
        copy = self._by_parent.pop(parent, None)
        if copy is None:
            return None
        self._end(copy.middle, copy.pid, *(_strays(parent, known) if copy.started else ()))
        for handle in copy.handles[1:]:
            os.close(handle)
        return copy.handles[0]

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
        elif asked.name == "tgkill" and asked.args[0] == status["Tgid"]:
            asked.allow()
        elif asked.name == "clone" and asked.args[0] & CLONE_THREAD:
            asked.allow() if status["Threads"] < family.tasks else asked.refuse(errno.EAGAIN)
        elif asked.name == "clone":
            self._fork(asked, status)
        else:
            self._settle(asked, status)

    def _fork(self, asked: Asked, status: dict[str, int]) -> None:
        """Steps 1 and 2."""
        plain = asked.args[0] & ~_FORK_FLAGS == signal.SIGCHLD
        own, parents = self._by_parent.get(asked.tid), self._by_parent.get(status["PPid"])
        if plain and own is not None and not own.started:
            own.started = True
            asked.allow()
        elif plain and parents is not None and parents.started and not parents.middle:
            parents.middle = asked.tid
            for source, target in zip(parents.handles, (3, 1, 2), strict=True):
                asked.inject(source, target)
            asked.allow()
        else:
            asked.refuse()

    def _settle(self, asked: Asked, status: dict[str, int]) -> None:
        """Steps 3 and 4."""
        copy = next((c for c in self.under_way() if c.middle == status["PPid"] > 1), None)
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
        except (OSError, RecursionError, shutil.Error) as error:
            self._give_up(copy.parent, f"{type(error).__name__}: {error}")
            return
        del self._by_parent[copy.parent]
        self._end(copy.middle)
        self._adopt(copy)
        asked.pretend()

    def _copy_files(self, asked: Asked, copy: Copy) -> None:
        """Enter the copy's mount namespace, give it its own files, come back."""
        folder = f"/proc/{copy.pid}"
        if os.path.samefile(f"{folder}/ns/mnt", f"/proc/{copy.parent}/ns/mnt"):
            raise PermissionError("the copy has no mount namespace of its own")
        limits = copy.message["limits"]
        opened = _open_files(folder)
        entered = os.open(f"{folder}/ns/mnt", os.O_RDONLY)
        try:
            kernel.setns(entered, kernel.CLONE_NEWNS)
            old = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
            try:
                kernel.umount(WORK)
                privateroot.fresh_work_folder(WORK, limits["tmp_bytes"], limits["tmp_inodes"])
                _copy_tree(old, WORK)
                for number, file in opened.items():
                    _reopen(asked, number, file)
            finally:
                os.close(old)
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNS)
            for handle in (entered, *(f.deleted for f in opened.values() if f.deleted >= 0)):
                os.close(handle)

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


def _status(tid: int) -> dict[str, int]:
    """Fields of a thread's status file; empty when it is gone."""
    try:
        with open(f"/proc/{tid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        return {}
    found = {name: int(fields[name]) for name in ("Tgid", "PPid", "Threads")}
    return found | {"CapEff": int(fields["CapEff"], 16)}


def _strays(parent: int, known: Container[int]) -> list[int]:
    """Children of `parent`, or orphans of its, that are no session of the server."""
    found = (int(name) for name in os.listdir("/proc") if name.isdigit())
    unknown = [pid for pid in found if pid != 1 and pid not in known]
    return [pid for pid in unknown if _status(pid).get("PPid") in (1, parent)]


@dataclass
class Opened:
    """A regular file under `WORK` that a process has open."""

    path: str
    flags: int
    position: int
    deleted: int  # our handle on it where it has no name any more, else -1


def _open_files(folder: str) -> dict[int, Opened]:
    """What a process has open under `WORK`, by its descriptor."""
    found = {}
    for name in os.listdir(f"{folder}/fd"):
        link = f"{folder}/fd/{name}"
        path = os.readlink(link)
        if not path.startswith(f"{WORK}/") or not stat.S_ISREG(os.stat(link).st_mode):
            continue
        with open(f"{folder}/fdinfo/{name}") as file:
            info = dict(line.split(":", 1) for line in file)
        deleted = os.open(link, os.O_RDONLY) if path.endswith(" (deleted)") else -1
        found[int(name)] = Opened(path, int(info["flags"], 8), int(info["pos"]), deleted)
    return found


def _reopen(asked: Asked, number: int, opened: Opened) -> None:
    """Replace a descriptor of the caller by the same file of its own tmpfs."""
    if opened.deleted < 0:
        flags = opened.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        handle = os.open(opened.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    else:
        handle = os.open(WORK, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        if opened.deleted >= 0:
            _copy_data(opened.deleted, handle)
        os.lseek(handle, opened.position, os.SEEK_SET)
        asked.inject(handle, number)
    finally:
        os.close(handle)


def _copy_data(source: int, target: int) -> None:
    with open(source, "rb", closefd=False) as data, open(target, "wb", closefd=False) as file:
        shutil.copyfileobj(data, file)


def _copy_tree(source: int, target: str) -> None:
    """Regular files and folders only; a session can make nothing else."""
    with os.scandir(source) as entries:
        for entry in entries:
            into = f"{target}/{entry.name}"
            below = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
            try:
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(into, 0o700)
                    _copy_tree(below, into)
                elif entry.is_file(follow_symlinks=False):
                    made = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    try:
                        _copy_data(below, made)
                    finally:
                        os.close(made)
                info = os.fstat(below)
                os.chmod(into, stat.S_IMODE(info.st_mode))
                os.utime(into, ns=(info.st_atime_ns, info.st_mtime_ns))
            finally:
                os.close(below)
