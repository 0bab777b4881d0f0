"""The walls: namespaces, a private read-only root, limits, and the system-call filter."""

from __future__ import annotations

import os
import resource
import tempfile
from typing import Any

from . import kernel, seccomp


def enter(config: dict[str, Any]) -> dict[str, Any]:
    """Put the server process behind the walls that all its sessions share."""
    config["scratch"] = tempfile.mkdtemp(prefix="palestra-")
    return {"missing": ["user", "pid", "net", "fs"]}


def confine(limits: dict[str, Any], config: dict[str, Any]) -> None:
    """Lock in the calling process, a session before its first cell."""
    os.chdir(tempfile.mkdtemp(dir=config["scratch"]))
    set_limits(limits, config["baseline"])
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    machine = seccomp.machine()
    if machine is not None:
        seccomp.install(machine, seccomp.allow_list(machine, supervised=False))


def set_limits(limits: dict[str, Any], baseline: int) -> None:
    """Hard resource limits; memory comes on top of the preloaded interpreter's `baseline`."""
    hard = {
        resource.RLIMIT_AS: baseline + limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["descriptors"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in hard.items():
        resource.setrlimit(kind, (value, value))
