"""A control group around a whole server: memory and number of tasks of all sessions together.

The launcher puts itself into a group of its own before it forks the zygote, so that no process
of a session is ever moved. Plain file writes, for both versions of the interface and any mixture
of them. It takes root, or on version 2 a subtree that was delegated to the user. Should host and
keeper be killed at once, who starts a server next removes the group, as the kernel lets nobody
remove one with a process in it.
"""

# Paths here are plain strings, as in the mount table.
# ruff: noqa: PTH102, PTH106, PTH112, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

CONTROLLERS = ("memory", "pids")
SHARE = 0.75  # of the memory there is, for all sessions of one server by default
_PREFIX = "palestra-"
_TRIES = 5  # as a new group can be swept before it is entered
_LIMIT = {
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
    ("pids", 1): "pids.max",
    ("pids", 2): "pids.max",
}
# Swap is no way around the first: in version 1 the limit is on memory and swap together.
_SWAP = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}
# What keeps a group of version 2 small. Whoever set it means all that runs in there.
_BOUNDS = (
    *("memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "io.max"),
    *("cpuset.cpus", "cpuset.mems"),
)
_KILLS = {1: "memory.oom_control", 2: "memory.events"}


@dataclass(frozen=True)
class Hierarchy:
    """The group that this process is in, in the hierarchy of one or more controllers."""

    controllers: tuple[str, ...]
    version: int
    mount: str
    folder: str

    def places(self) -> Iterator[str]:
        """Groups that a new one can be made in, nearest first."""
        folder = self.folder
        yield folder
        # Version 2 lets no group have both processes and groups with controllers below it.
        while self.version == 2 and folder != self.mount:
            folder = os.path.dirname(folder)
            yield folder


def own_name(token: str) -> str:
    """A name for a group that this process answers for."""
    return f"{_PREFIX}{os.getpid()}-{token}"


def join(name: str, limits: dict[str, int]) -> int:
    """Put this process into new groups with `limits` by controller (bytes, tasks).

    Returns a descriptor on the group's count of kills for memory, for `Kills`.

    Raises:
        OSError: no such groups can be made here; none is left behind.
    """
    kills = -1
    entered: list[tuple[Hierarchy, str]] = []
    try:
        for own in hierarchies():
            folder = _make_and_enter(own, name, limits)
            entered.append((own, folder))
            if "memory" in own.controllers:
                kills = os.open(f"{folder}/{_KILLS[own.version]}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for own, folder in entered:
            with suppress(OSError):
                _write(own.folder, "cgroup.procs", "0")
                os.rmdir(folder)
        raise
    return kills


def _make_and_enter(own: Hierarchy, name: str, limits: dict[str, int]) -> str:
    for tries_left in reversed(range(_TRIES)):
        folder = _make(own, name, limits)
        try:
            _write(folder, "cgroup.procs", "0")
            break
        except FileNotFoundError:
            if not tries_left:
                raise
        except OSError:
            os.rmdir(folder)
            raise
    return folder


class Kills:
    """The kernel's kills for memory in a group, from a descriptor of `join` (-1 for none)."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._claimed = self._count()

    def claim(self) -> bool:
        """Whether there was one that nobody has claimed; now somebody has."""
        if self._count() <= self._claimed:
            return False
        self._claimed += 1
        return True

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _count(self) -> int:
        if self._handle < 0:
            return 0
        found = re.search(rb"oom_kill (\d+)", os.pread(self._handle, 4096, 0))
        return int(found[1]) if found else 0


def make_first_victim(pid: int) -> None:
    """When memory runs out the kernel shall choose this process rather than the server."""
    with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("1000")


def default_memory() -> int:
    """Bytes for all sessions of a server: most of what this process itself may have."""
    with open("/proc/meminfo") as file:
        most = int(file.readline().split()[1]) << 10
    with suppress(OSError):
        own = next(one for one in hierarchies() if "memory" in one.controllers)
        folder = own.folder
        while folder.startswith(own.mount):
            name = f"{folder}/{_LIMIT['memory', own.version]}"
            with suppress(OSError, ValueError), open(name) as file:
                most = min(most, int(file.read()))
            folder = os.path.dirname(folder)
    return int(SHARE * most)


def default_tasks() -> int:
    """Processes and threads for all sessions of a server: half of what the machine has."""
    most = []
    for name in ("pid_max", "threads-max"):
        with open(f"/proc/sys/kernel/{name}") as file:
            most.append(int(file.read()))
    return min(most) // 2


def sweep() -> None:
    """Remove groups that nobody is in any more."""
    with suppress(OSError):
        for own in hierarchies():
            for place in own.places():
                _sweep(place)


def remove(name: str, wait_s: float) -> None:
    """Remove a group by its name, waiting for its last processes to end."""
    until = time.monotonic() + wait_s
    with suppress(OSError):
        folders = [f"{place}/{name}" for own in hierarchies() for place in own.places()]
        while left := [folder for folder in folders if os.path.isdir(folder)]:
            for folder in left:
                with suppress(OSError):
                    os.rmdir(folder)
            if time.monotonic() > until:
                return
            time.sleep(0.002)


def hierarchies() -> list[Hierarchy]:
    """The groups that this process is in; version 2 has one for all controllers.

    Raises:
        OSError: there are none for a controller, or they cannot be seen.
    """
    with open("/proc/self/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    first = [name for name in CONTROLLERS if name in paths]
    second = tuple(name for name in CONTROLLERS if name not in paths)
    found = [_find((name,), 1, paths[name], mounts) for name in first]
    if second:
        found.append(_find(second, 2, paths.get("", "/"), mounts))
    return found


def _find(
    controllers: tuple[str, ...], version: int, path: str, mounts: list[list[str]]
) -> Hierarchy:
    for words in mounts:
        dash = words.index("-")
        kind, options = words[dash + 1], words[dash + 3].split(",")
        if kind != ("cgroup", "cgroup2")[version - 1]:
            continue
        if version == 1 and controllers[0] not in options:
            continue
        root, mount = words[3].rstrip("/"), words[4]
        if path == root or path.startswith(f"{root}/"):
            folder = (mount + path[len(root) :]).rstrip("/")
            return Hierarchy(controllers, version, mount, folder)
    raise OSError(f"no control groups for {', '.join(controllers)} are mounted here")


def _make(own: Hierarchy, name: str, limits: dict[str, int]) -> str:
    """A new group with its limits, as near to our own as can be."""
    reasons = []
    for place in own.places():
        folder = f"{place}/{name}"
        try:
            if own.version == 2:
                _enable(place, own.controllers)
            with suppress(FileExistsError):  # one hierarchy of version 1 for both controllers
                os.mkdir(folder)
            for controller in own.controllers:
                _write(folder, _LIMIT[controller, own.version], str(limits[controller]))
            if "memory" in own.controllers:
                with suppress(FileNotFoundError):  # a kernel that does not count swap
                    _write(folder, _SWAP[own.version], str((limits["memory"], 0)[own.version - 1]))
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            with suppress(OSError):
                os.rmdir(folder)
            if own.version == 2 and (bound := _bound(place)):
                reasons.append(f"which has {bound} and is not to be left")
                break
        else:
            return folder
    what = " and ".join(own.controllers)
    raise OSError(f"no control group for {what} can be made: {'; '.join(reasons)}")


def _bound(folder: str) -> str:
    """A file of a group that limits it, '' where there is none."""
    for name in _BOUNDS:
        with suppress(OSError), open(f"{folder}/{name}") as file:
            if file.read().partition(" ")[0].strip() not in ("", "max"):
                return name
    return ""


def _enable(place: str, controllers: tuple[str, ...]) -> None:
    with open(f"{place}/cgroup.subtree_control") as file:
        there = file.read().split()
    absent = [name for name in controllers if name not in there]
    if absent:
        _write(place, "cgroup.subtree_control", " ".join(f"+{name}" for name in absent))


def _sweep(place: str) -> None:
    with suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(_PREFIX):
                with suppress(OSError):
                    os.rmdir(f"{place}/{name}")


def _write(folder: str, name: str, text: str) -> None:
    handle = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
