"""Which guarantees a sandbox gives on this machine, each shown by an attempt.

    report = examine()
    report.tier, report.lacking(["net", "fs"])

No version is read and nothing is inferred: a program inside tries to open a file of the
host's, to reach a port, to take too much memory, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..base import Sandbox
from ..local import LocalSandbox
from ..types import SandboxError
from . import machine, outside, probes
from .advice import what_to_do
from .probes import Found, Patient
from .report import Report, Result, Row

__all__ = ["KEYS", "Report", "Result", "Row", "examine"]

_NAMESPACES = {
    "user": "own users",
    "pid": "own processes",
    "net-ns": "own network",
    "mount": "own mounts",
    "ipc": "own shared memory",
    "uts": "own host name",
}
_INSIDE = {
    "root": ("private root, read-only", probes.private_root),
    "fs": ("no files of this machine", probes.no_host_files),
    "net": ("no network", probes.no_network),
    "env": ("no environment variables", probes.no_environment),
    "seccomp": ("system-call filter", probes.syscall_filter),
    "memory": ("memory limit", probes.memory_limit),
    "cpu": ("CPU limit", probes.cpu_limit),
    "wall": ("wall-clock kill", probes.wall_clock),
    "tasks": ("limit on threads", probes.task_limit),
    "disk": ("quota on files", probes.disk_quota),
    "output": ("output limit", probes.output_limit),
    "fork": ("fork of sessions", probes.fork),
}
_MACHINE = {
    "landlock": ("Landlock", machine.landlock),
    "docker": ("Docker daemon", machine.docker),
    "runsc": ("gVisor in Docker", machine.runsc),
    "bwrap": ("bubblewrap", machine.bubblewrap),
}
_OUTSIDE = {
    "uid": "an unprivileged user",
    "gone": "nothing stays behind",
    "cgroup": "own control group",
}
_SEEN = _NAMESPACES | _OUTSIDE
_UNSEEN = "the processes of this back end cannot be seen from here"
KEYS = (*_SEEN, *_INSIDE, *_MACHINE)


def examine(make: Callable[[], Sandbox] = LocalSandbox) -> Report:
    """Start a sandbox with `make`, attempt everything, and close it. Takes some seconds.

    Raises:
        SandboxError: the sandbox does not start.
    """
    with probes.admitted(make) as patient:
        tier, missing = patient.sandbox.tier, patient.sandbox.missing
        rows = [*_inside(patient), *_outside(patient)]
    rows += [_row(key, title, look) for key, (title, look) in _MACHINE.items()]
    rows.sort(key=lambda row: KEYS.index(row.key))
    return Report(tier, missing, tuple(rows))


def _inside(patient: Patient) -> Iterator[Row]:
    for key, (title, probe) in _INSIDE.items():
        yield _row(key, title, partial(probe, patient))


def _outside(patient: Patient) -> Iterator[Row]:
    sandbox = patient.sandbox
    servers = outside.server_pids(sandbox)
    with sandbox.open() as session:
        number = session.run("import os; os.getpid()").value or "0"
        pid = outside.session_pid(servers, int(number))
        if pid is None:
            yield from (Row(key, title, Result.ABSENT, _UNSEEN) for key, title in _SEEN.items())
            return
        for key, title in _NAMESPACES.items():
            name = key.removesuffix("-ns")
            absent = sandbox.missing.get(outside.LAYER[name])
            yield _row(key, title, partial(outside.namespace, name, pid), absent)
        yield _row("uid", _OUTSIDE["uid"], partial(outside.unprivileged, pid))
        yield _row("cgroup", _OUTSIDE["cgroup"], partial(outside.control_group, patient, pid))
    yield _row("gone", _OUTSIDE["gone"], partial(outside.nothing_left, sandbox, servers))


def _row(key: str, title: str, look: Callable[[], Found], why: str | None = None) -> Row:
    """The row of one attempt; `why` is what the sandbox says of a layer that is missing."""
    try:
        result, shown = look()
    except SandboxError as error:
        result, shown = Result.BROKEN, str(error)
    if result is Result.HOLDS:
        return Row(key, title, result, shown)
    return Row(key, title, result, f"{shown} ({why})" if why else shown, what_to_do(key))
