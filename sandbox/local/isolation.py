"""The walls: namespaces, a private read-only root, resource limits, the system-call filter.

`Walls.raise_launcher` and `raise_server` run once, in the launcher and in the server it
forks. `confine` runs in every session before its first cell. Each layer that this machine
refuses is named in `missing`; nothing is dropped silently.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH102, PTH104, PTH106, PTH110, PTH112, PTH116, PTH120, PTH208

from __future__ import annotations

import os
import resource
import signal
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import kernel, landlock, privateroot, seccomp
from .layout import Layout
from .scratch import remove_tree

_FLAGS = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)  # fmt: skip
_INSIDE = 1000  # the one uid and gid that exist inside
_WORK = "/tmp"


@dataclass
class Walls:
    """What stands around the server and its sessions."""

    layout: Layout
    missing: dict[str, str] = field(default_factory=dict)
    base: str = ""  # where the private root was built, while still in the host's view
    scratch: str = ""  # the working folders' parent where there is no private root
    baseline: int = 0  # virtual size of the preloaded interpreter, bytes

    def raise_launcher(self) -> None:
        """Unshare every namespace; as root, give up root first."""
        own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
        try:
            if os.geteuid() == 0:
                # The interpreter may lie where only root can look: show it before leaving.
                kernel.unshare(kernel.CLONE_NEWNS)
                self.base = privateroot.build(self.layout)
                _drop_root()
            uid, gid = os.geteuid(), os.getegid()
            kernel.unshare(_FLAGS)
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{_INSIDE} {uid} 1"),
                ("gid_map", f"{_INSIDE} {gid} 1"),
            ):
                if name != "setgroups" or os.path.exists("/proc/self/setgroups"):  # not in gVisor
                    _write(own, name, text)
            socket.sethostname("sandbox")  # the host's name is nothing for programs to see
        except OSError as error:
            self.missing |= dict.fromkeys(("user", "pid", "net", "fs", "fork"), str(error))
        finally:
            os.close(own)

    def raise_server(self, scratch: str) -> None:
        """In the new process namespace: move into the private root.

        Where there can be none, working folders are made under `scratch`.
        """
        if "fs" not in self.missing:
            try:
                privateroot.enter(self.base or privateroot.build(self.layout))
            except OSError as error:
                self.missing["fs"] = str(error)
        if "fs" not in self.missing and not privateroot.mount_proc():
            self.missing["fork"] = "no proc file system for the new process namespace"
        if "fs" in self.missing:
            self._make_do(scratch)
        if seccomp.machine() is None:
            self.missing |= dict.fromkeys(("seccomp", "fork"), f"no table for {os.uname().machine}")
        elif not seccomp.usable():
            self.missing |= dict.fromkeys(("seccomp", "fork"), "the kernel has no filters")
        elif not seccomp.supervises():
            self.missing.setdefault("fork", "the kernel's filters cannot ask a supervisor")

    def _make_do(self, scratch: str) -> None:
        """Without a private root: an unprivileged user, Landlock, folders on the host's disk."""
        self.missing.setdefault("fork", "needs the private root")
        if os.geteuid() == 0:
            if all(map(_anyone_may_look, self.layout.binds.values())):
                _drop_root()
            else:
                self.missing["uid"] = "only root can read the interpreter"
        if not landlock.version():
            self.missing["landlock"] = "the kernel has no Landlock"
        os.mkdir(scratch, 0o700)
        self.scratch = scratch
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)

    def clean_up(self, pid: int) -> None:
        """Remove what a dead session left on the host's disk."""
        folder = f"{self.scratch}/{pid}"
        with suppress(OSError):
            if self.scratch and os.listdir(folder):
                os.rename(folder, gone := f"{folder}-{time.monotonic_ns()}")
                # There may be a great deal, and the server has others to see to.
                if os.fork() == 0:
                    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                    kernel.close_from(3)
                    remove_tree(gone)
                    os._exit(0)
            elif self.scratch:
                os.rmdir(folder)

    def confine(self, limits: dict[str, Any], uplink: socket.socket) -> None:
        """Lock in the calling process for good; its listener, if any, goes up the `uplink`."""
        if self.scratch:
            folder = f"{self.scratch}/{os.getpid()}"
            os.mkdir(folder, 0o700)
            os.chdir(folder)
        else:
            kernel.unshare(kernel.CLONE_NEWNS)
            privateroot.fresh_work_folder(_WORK, limits["tmp_bytes"], limits["tmp_inodes"])
            os.chdir(_WORK)
        set_limits(limits, self.baseline)
        copying = "fork" not in self.missing
        # Copying a session takes one mount namespace more: permitted, never effective in cells.
        kernel.set_capabilities(effective=0, permitted=copying << kernel.CAP_SYS_ADMIN)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if self.scratch and "landlock" not in self.missing:
            tempfile.tempdir = f"{self.scratch}/{os.getpid()}"
            landlock.restrict(self.layout.binds.values(), tempfile.tempdir)
        machine = seccomp.machine()
        if machine is not None and "seccomp" not in self.missing:
            if copying:
                listener = seccomp.install(machine, seccomp.notifier(machine), listen=True)
                socket.send_fds(uplink, [b"%d" % os.getpid()], [listener])
                os.close(listener)
            uplink.close()
            seccomp.install(machine, seccomp.allow_list(machine, supervised=copying))


def _anyone_may_look(path: str) -> bool:
    """Whether an unprivileged user can reach `path`."""
    while path != "/":
        if not os.stat(path).st_mode & (0o001 if os.path.isdir(path) else 0o004):
            return False
        path = os.path.dirname(path)
    return True


def _write(folder: int, name: str, text: str) -> None:
    handle = os.open(name, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _drop_root() -> None:
    """Become a host user that nobody else is, so that no file and no process is shared."""
    uid = 0x70000000 + os.getpid() % (1 << 22)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else the own uid map belongs to root


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
