"""How the process of a session is locked in: made ready once by the zygote, then by each fork."""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH102

from __future__ import annotations

import errno
import os
import resource
import socket
import tempfile
import time
from typing import Any

from . import kernel, landlock, privateroot, seccomp
from .isolation import Walls

WORK, SHARED = "/tmp", "/dev/shm"
SEND_S = 60.0
_SHARED_BYTES = 16 << 20  # locks and counters of multiprocessing
# What programs find in their environment where they may run others.
ENVIRONMENT = {"HOME": WORK, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class LockIn:
    """What all sessions of a server have in common; `baseline` is the zygote's virtual size.

    Attributes:
        ruleset: a descriptor that `confine` has to be given, or -1.
        processes: programs may make some.
    """

    def __init__(self, walls: Walls, baseline: int) -> None:
        self._walls = walls
        self._baseline = baseline
        self.processes = walls.profile.processes
        self._notifier, self._filter = b"", b""
        machine, supervised = seccomp.machine(), walls.supervised
        if machine is not None and "seccomp" not in walls.missing:
            self._filter = seccomp.allow_list(machine, walls.profile, supervised=supervised)
            if supervised:
                self._notifier = seccomp.notifier(machine, walls.profile)
        self.ruleset = -1
        if not walls.scratch and "landlock" not in walls.missing:
            self.ruleset = landlock.narrow(execute=self.processes)
        # Copying a session takes one mount namespace more: permitted, never effective in cells.
        copying = not self.processes and "fork" not in walls.missing
        self._keep_rights = kernel.capabilities(
            effective=0, permitted=copying << kernel.CAP_SYS_ADMIN
        )
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if self.processes else -1

    def fork(self) -> int:
        """fork(2); where programs may make processes, into a process namespace of its own."""
        if not self.processes:
            return kernel.fork()
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = kernel.fork()
        except OSError:
            kernel.setns(self._own_pids, kernel.CLONE_NEWPID)
            raise
        if pid:
            kernel.setns(self._own_pids, kernel.CLONE_NEWPID)
        return pid

    def confine(self, limits: dict[str, Any], uplink: socket.socket, ruleset: int) -> None:
        """Lock in the calling process for good; its listener, if any, goes up the `uplink`."""
        scratch = self._walls.scratch
        if scratch:
            folder = f"{scratch}/{os.getpid()}"
            os.mkdir(folder, 0o700)
            os.chdir(folder)
        else:
            self._own_mounts(limits)
        set_limits(limits, self._baseline)
        self._give_up_rights(limits)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if scratch and "landlock" not in self._walls.missing:
            tempfile.tempdir = folder
            landlock.restrict(self._walls.layout.binds.values(), folder)
        elif ruleset >= 0:
            landlock.enter(ruleset)
        self._install_filters(uplink)

    def _own_mounts(self, limits: dict[str, Any]) -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        privateroot.fresh_work_folder(WORK, limits["tmp_bytes"], limits["tmp_inodes"])
        if self.processes:
            shared = min(_SHARED_BYTES, limits["tmp_bytes"])
            privateroot.fresh_work_folder(SHARED, shared, limits["tmp_inodes"])
        os.chdir(WORK)

    def _give_up_rights(self, limits: dict[str, Any]) -> None:
        if self.processes:
            # In a user namespace of its own the kernel counts this session's tasks alone; a limit
            # set before it is made would count those of all sessions.
            kernel.unshare(kernel.CLONE_NEWUSER)
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["tasks"], limits["tasks"]))
        self._keep_rights()

    def _install_filters(self, uplink: socket.socket) -> None:
        machine = seccomp.machine()
        if machine is not None and self._notifier:
            listener = seccomp.install(machine, self._notifier, listen=True)
            _send_listener(uplink, listener)
            os.close(listener)
        uplink.close()
        if machine is not None and self._filter:
            seccomp.install(machine, self._filter)


def _send_listener(uplink: socket.socket, listener: int) -> None:
    """Where a user has many descriptors under way, as on a starved machine, the kernel refuses
    those of a process with a low limit until some have arrived."""
    until = time.monotonic() + SEND_S
    while True:
        try:
            socket.send_fds(uplink, [b"listener"], [listener])
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > until:
                raise
        time.sleep(0.005)


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
        try:
            resource.setrlimit(kind, (value, value))
        except ValueError:  # gVisor takes no limit for message queues, of which it has none
            if kind != resource.RLIMIT_MSGQUEUE:
                raise
