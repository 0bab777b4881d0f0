"""The first process: it stays outside of every wall, and cleans up when all is over.

It forks a launcher, which gives up rights, unshares namespaces and enters the control group,
forks the zygote in there, and ends. The zygote thereby becomes the keeper's child; where a
kernel does not adopt (older gVisor), the launcher stays between them. When the
host or the zygote ends, however that is, or the host says SIGTERM, the keeper ends the zygote
and removes the control group and the folder on the host's disk; as it has given up nothing, it
may.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from contextlib import suppress
from typing import NoReturn

from . import cgroup, kernel
from .scratch import remove_tree

GONE_S = 2.0
LOOK_S = 0.05  # between two looks at the others, where they have to be looked at


class Leash:
    """What ties the zygote to the keeper, made before either of the two forks."""

    def __init__(self) -> None:
        self._adopts = True
        try:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._adopts = False
        self._told, self._tell = os.pipe()  # the zygote's process id
        self._held, self._hold = os.pipe()  # closed when the keeper ends

    def in_launcher(self) -> None:
        """Let go of the keeper's ends."""
        os.close(self._told)
        os.close(self._hold)

    def report(self, zygote: int) -> NoReturn:
        """The launcher's last act."""
        if not self._adopts:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(self._tell, b"%d" % zygote)
        if not self._adopts:
            os.close(self._held)
            os.waitpid(zygote, 0)
        os._exit(0)

    def in_zygote(self) -> None:
        """Wait for the parent to be the last one; from then on die with it."""
        os.close(self._tell)
        if not os.read(self._held, 1):
            os._exit(0)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        alive = select.poll()
        alive.register(self._held, 0)
        if alive.poll(0):  # it ended before that
            os._exit(0)
        os.close(self._held)

    def keep(self, host: int, launcher: int, scratch: str, group: str) -> NoReturn:
        """The keeper's life. `host` is a process descriptor: PDEATHSIG would fire when the host's
        starting *thread* ends."""
        os.close(self._tell)
        os.close(self._held)
        signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, lambda *_: None)
        told = os.read(self._told, 32)
        if self._adopts or not told:
            os.waitpid(launcher, 0)
        if told:
            zygote = int(told)
            child = zygote if self._adopts else launcher
            os.write(self._hold, b".")
            _await_an_end(host, child, signals)
            with suppress(ProcessLookupError):  # ended before its launcher did
                os.kill(zygote, signal.SIGKILL)
            os.waitpid(child, 0)  # with the zygote everything in its process namespace
        remove_tree(scratch, wait_s=GONE_S)
        cgroup.remove(group, wait_s=GONE_S)
        os._exit(0)


def _await_an_end(host: int, child: int, signals: int) -> None:
    """Until the host or the child has ended, or the host has said so."""
    handle, above = kernel.pidfd_open(child), os.getppid()
    poller = select.poll()
    for source in (host, handle, signals):
        if source >= 0:
            poller.register(source, select.POLLIN)
    if handle >= 0:
        poller.poll()
        return
    # gVisor has no descriptors of processes.
    while not poller.poll(LOOK_S * 1000) and os.getppid() == above:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
