"""The walls: namespaces, a private read-only root, resource limits, the system-call filter.

`Walls.raise_launcher` and `raise_server` run once, in the launcher and in the zygote it forks;
`lockin` has what every session adds. Each layer that this machine refuses is named in
`missing`; nothing is dropped silently.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH102, PTH104, PTH106, PTH110, PTH112, PTH116, PTH120, PTH208

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field

from . import kernel, landlock, privateroot, seccomp, tasks
from .layout import Layout
from .profiles import Profile
from .scratch import remove_tree

_FLAGS = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)  # fmt: skip
_INSIDE = 1000  # the one uid and gid that exist inside


@dataclass
class Walls:
    """What stands around the server and its sessions."""

    layout: Layout
    profile: Profile
    missing: dict[str, str] = field(default_factory=dict)
    base: str = ""  # where the private root was built, while still in the host's view
    supervised: bool = False  # suspended calls are decided by the server
    scratch: str = ""  # the working folders' parent where there is no private root

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
        if not landlock.version():
            self.missing["landlock"] = "the kernel has no Landlock"
        elif "fs" not in self.missing and landlock.version() < landlock.RENAMES:
            self.missing["landlock"] = "the kernel's Landlock forbids to move files"
        if "fs" in self.missing:
            self._make_do(scratch)
        if seccomp.machine() is None:
            self.missing |= dict.fromkeys(("seccomp", "fork"), f"no table for {os.uname().machine}")
        elif not seccomp.usable():
            self.missing |= dict.fromkeys(("seccomp", "fork"), "the kernel has no filters")
        elif not seccomp.supervises():
            self.missing.setdefault("fork", "the kernel's filters cannot ask a supervisor")
        self.supervised = "fork" not in self.missing
        self._check_profile()

    def _check_profile(self) -> None:
        """Processes are let loose only where a session's are its own and all end with it.

        Raises:
            RuntimeError: this machine does not give that.
        """
        if not self.profile.processes:
            return
        for layer in ("user", "pid", "fs", "seccomp", "fork"):
            if layer in self.missing:
                why = f"the layer {layer}, missing here: {self.missing[layer]}"
                break
        else:
            if tasks.are_counted() and tasks.are_listed():
                self.missing["fork"] = f"profile {self.profile.name!r}: programs make processes"
                return
            why = "a count of tasks for each session, which this kernel does not keep"
        raise RuntimeError(f"profile {self.profile.name!r} needs {why}")

    def _make_do(self, scratch: str) -> None:
        """Without a private root: an unprivileged user, Landlock, folders on the host's disk."""
        self.missing.setdefault("fork", "needs the private root")
        if os.geteuid() == 0:
            if all(map(_anyone_may_look, self.layout.binds.values())):
                _drop_root()
            else:
                self.missing["uid"] = "only root can read the interpreter"
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
