"""Looks from outside at the processes of a sandbox: what the kernel says of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..base import Sandbox
from .machine import ask_docker
from .probes import Found, Patient
from .report import Result

NAMESPACES = {
    "user": "user",
    "pid": "pid",
    "net": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
}
# The layer of the sandbox whose absence explains that of a namespace.
LAYER = {"user": "user", "pid": "pid", "net": "net", "mount": "fs", "ipc": "user", "uts": "user"}
_GONE_S = 10.0


def server_pids(sandbox: Sandbox) -> list[int]:
    """The processes here under which sessions live; none where they cannot be seen."""
    pid = getattr(sandbox, "server_pid", None)
    if isinstance(pid, int):
        return [pid]
    with suppress(OSError, ValueError, KeyError, TypeError):
        containers = getattr(sandbox, "container_ids", ())
        about = [ask_docker(f"/containers/{name}/json") for name in containers]
        return [int(one["State"]["Pid"]) for one in about]
    return []


def descendants(pid: int) -> Iterator[int]:
    """Process ids of the children of `pid`, theirs, and so on."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)


def session_pid(servers: Iterable[int], inside: int) -> int | None:
    """The process id here of the session that is number `inside` to itself; None if not seen."""
    for pid in (pid for server in servers for pid in descendants(server)):
        numbers = re.search(r"^NSpid:(.*)$", _status(pid), re.MULTILINE)
        if numbers and int(numbers[1].split()[-1]) == inside:
            return pid
    return None


def _status(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text()
    return ""


def namespace(name: str, pid: int) -> Found:
    """Whether the process has another namespace of this kind than we have."""
    kind = NAMESPACES[name]
    own = str(Path(f"/proc/self/ns/{kind}").readlink())
    try:
        theirs = str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError as error:
        return Result.BROKEN, f"/proc/{pid}/ns/{kind} cannot be read: {error.strerror}"
    if own == theirs:
        return Result.BROKEN, f"{own}, as this process has"
    return Result.HOLDS, f"{theirs}, this process {own}"


def unprivileged(pid: int) -> Found:
    """Whether the process runs as a user of this machine that is not root."""
    uids = re.search(r"^Uid:(.*)$", _status(pid), re.MULTILINE)
    if uids is None:
        return Result.BROKEN, f"the user of process {pid} cannot be read"
    ids = sorted(set(map(int, uids[1].split())))
    found = f"sessions run as user {', '.join(map(str, ids))} of this machine"
    return (Result.BROKEN if 0 in ids else Result.HOLDS), found


def control_group(patient: Patient, pid: int) -> Found:
    """Whether the process was put into a control group of its own."""
    own, theirs = _groups("self"), _groups(str(pid))
    made = sorted(path for path in theirs - own)
    if made:
        return Result.HOLDS, f"a session is in {made[0].lstrip(':')}"
    why = patient.sandbox.missing.get("cgroup")
    return Result.ABSENT, why or f"the same one as this process{_no_group()}"


def _groups(pid: str) -> set[str]:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return {line.partition(":")[2] for line in lines}
    return set()


def _no_group() -> str:
    """Why none can be made here, from an attempt to make one; empty where it went well."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = root / f"palestra-doctor-{os.getpid()}"
        try:
            folder.mkdir()
            folder.rmdir()
        except OSError as error:
            why = f"; making one in {root}: {error.strerror}"
        else:
            return ""
    return why


def nothing_left(sandbox: Sandbox, servers: Iterable[int]) -> Found:
    """Close the sandbox with a session at work in it: every process of it must be gone."""
    session = sandbox.open()
    session.run("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()")
    pids = [pid for server in servers for pid in (server, *descendants(server))]
    sandbox.close()
    until = time.monotonic() + _GONE_S
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > until:
            return Result.BROKEN, f"process {left[0]} is still there after closing"
        time.sleep(0.01)
    return Result.HOLDS, f"{len(pids)} processes, all gone after closing"


def _alive(pid: int) -> bool:
    status = _status(pid)
    return bool(status) and "\nState:\tZ" not in status
